//! What holds for two nodes whatever the network does, against a reference that knows only which packets were sent.

mod faults;
mod life;
