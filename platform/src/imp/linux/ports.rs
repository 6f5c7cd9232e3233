//! Listening sockets by `/proc/net/tcp` and who has them open by `/proc/<pid>/fd` (proc(5)).

use std::path::Path;

use crate::ports::PortHolder;

/// The state of a socket that listens.
const LISTEN: &str = "0A";

pub(crate) fn holder(port: u16) -> Option<PortHolder> {
    let (user, inode) = ["tcp", "tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(Path::new("/proc/net").join(table)).ok()?;
        text.lines().find_map(|line| listener(line, port))
    })?;
    Some(PortHolder {
        user,
        process: process_with(inode),
    })
}

/// User and inode of a row, if it is of a socket that listens on this port.
fn listener(row: &str, port: u16) -> Option<(u32, u64)> {
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    let (_, own_port) = fields.get(1)?.rsplit_once(':')?;
    let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(own_port, 16) == Ok(port);
    listens.then_some(())?;
    Some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
}

fn process_with(inode: u64) -> Option<(String, u32)> {
    let wanted = format!("socket:[{inode}]");
    let has_it = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        open.flatten()
            .any(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
            })
            .then_some(())
    };
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|folder| {
        let pid: u32 = folder.file_name().to_str()?.parse().ok()?;
        has_it(pid)?;
        // A program chooses its own name, which ends on a terminal here.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let name = name.trim_end().replace(char::is_control, "?");
        Some((name, pid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_listeners_are_read_and_others_are_not() {
        let row = "   3: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4711 1 0 100 0 0 10 0";
        assert_eq!(listener(row, 443), Some((33, 4711)));
        assert_eq!(listener(row, 80), None);
        assert_eq!(listener(&row.replace(" 0A ", " 01 "), 443), None);
        let six = row.replace("00000000:01BB", "00000000000000000000000000000000:01BB");
        assert_eq!(listener(&six, 443), Some((33, 4711)));
        for broken in ["  sl  local_address rem_address   st", "", "3: x", &row[..60]] {
            assert_eq!(listener(broken, 443), None);
        }
    }
}
