//! Who listens on a port of this machine, for a message that says more than "taken".

use std::fmt;

use crate::imp;

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The user that the socket belongs to.
    pub user: u32,
    /// Name and number of a process that has it open; `None` where this user is not told.
    pub process: Option<(String, u32)>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((name, pid)) => write!(f, "`{name}` (process {pid})"),
            None => write!(f, "a process of user {}", self.user),
        }
    }
}

/// Who listens on this TCP port, on whatever address; `None` where nobody does, or where that cannot be told (all but Linux).
pub fn holder(port: u16) -> Option<PortHolder> {
    imp::ports::holder(port)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port_and_a_connection_is_none() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("SKIPPED: {address}: no such address here");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let connection = std::net::TcpStream::connect(address).unwrap();
            let found = holder(address.port()).unwrap();
            assert_eq!(found.user, crate::process::user_id());
            let (name, pid) = found.process.clone().unwrap();
            assert_eq!(pid, std::process::id());
            assert_eq!(found.to_string(), format!("`{name}` (process {pid})"));
            assert_eq!(holder(connection.local_addr().unwrap().port()), None);
        }
    }

    #[test]
    fn somebody_whose_process_is_hidden_is_known_by_the_user() {
        let hidden = PortHolder {
            user: 33,
            process: None,
        };
        assert_eq!(hidden.to_string(), "a process of user 33");
    }
}
