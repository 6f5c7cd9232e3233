//! How wide the terminal is that standard output leads to; 80 columns where it does not know itself.

const DEFAULT: usize = 80;

/// Columns of the terminal.
pub(super) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    // A terminal that says 0 does not know.
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(DEFAULT)
}
