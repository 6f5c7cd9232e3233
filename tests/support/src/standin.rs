//! The stand-in for Coder's server. See [`server`]; the program `coder-stand-in` puts a command line on it.

pub mod server;
