//! The command line's end of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use orfe_tunnel::proxy::Target;

use super::status::Status;
use super::{Answer, AnswerLine, ProxyUrls, Request, RequestLine, VERSION};
use crate::failure::{Exit, Failure};

/// How long the daemon may take to answer before it counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the daemon may take to reach a destination: it holds a dial for 20 s while the tunnel rises, and a dial takes
/// 10 s at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(40);

/// A connection to the daemon; its answers one by one.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Asks for the status, once.
    pub(crate) fn status(socket: &Path) -> Result<Status, Failure> {
        let mut client = Self::open(socket, Request::Status)?;
        client.next()?.ok_or_else(no_answer)
    }

    /// Asks for the status and every change of it.
    pub(crate) fn watch(socket: &Path) -> Result<Self, Failure> {
        let client = Self::open(socket, Request::Watch)?;
        client.reader.get_ref().set_read_timeout(None).map_err(broken)?;
        Ok(client)
    }

    /// How to use this machine's proxy.
    pub(crate) fn proxy(socket: &Path) -> Result<ProxyUrls, Failure> {
        let mut client = Self::open(socket, Request::Proxy)?;
        match client.answer()? {
            Some(Answer::Proxy(urls)) => Ok(urls),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// Asks for a connection and waits until it is there.
    pub(crate) fn connect(socket: &Path, target: &Target) -> Result<Connection, Failure> {
        let request = Request::Connect {
            host: target.host.to_string(),
            port: target.port,
        };
        let mut client = Self::open(socket, request)?;
        let stream = client.reader.get_ref();
        stream.set_read_timeout(Some(CONNECT_TIMEOUT)).map_err(broken)?;
        match client.answer()? {
            Some(Answer::Connected {}) => {
                let stream = client.reader.get_ref();
                stream.set_read_timeout(None).map_err(broken)?;
                let writer = stream.try_clone().map_err(broken)?;
                Ok(Connection {
                    reader: client.reader,
                    writer,
                })
            }
            other => Err(unexpected(other.as_ref())),
        }
    }

    fn open(socket: &Path, request: Request) -> Result<Self, Failure> {
        let mut stream = UnixStream::connect(socket).map_err(|error| not_there(socket, error))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
        let mut line = serde_json::to_vec(&RequestLine { v: VERSION, request }).map_err(broken)?;
        line.push(b'\n');
        stream.write_all(&line).map_err(broken)?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// The next status; none when the daemon stopped.
    pub(crate) fn next(&mut self) -> Result<Option<Status>, Failure> {
        match self.answer()? {
            None => Ok(None),
            Some(Answer::Status(status)) => Ok(Some(*status)),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// The next answer but an error; none when the daemon closed the connection.
    fn answer(&mut self) -> Result<Option<Answer>, Failure> {
        let mut line = String::new();
        let read = self
            .reader
            .read_line(&mut line)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Failure::new("the daemon did not answer in time")
                        .hint("it may hang; its log says more".to_owned())
                }
                _ => broken(error),
            })?;
        if read == 0 {
            return Ok(None);
        }
        let line: AnswerLine = serde_json::from_str(&line).map_err(|error| {
            Failure::new("the daemon's answer cannot be read")
                .hint("the daemon may be of another version; restart it".to_owned())
                .because(error)
        })?;
        match line.answer {
            Answer::Error(text) => Err(Failure::new(text)),
            answer => Ok(Some(answer)),
        }
    }
}

/// A connection that the daemon carries: what comes, and where to write.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: BufReader<UnixStream>,
    pub(crate) writer: UnixStream,
}

/// It ended between taking the question and answering it.
fn no_answer() -> Failure {
    ended(Failure::new("the daemon closed the connection without an answer"))
}

fn ended(failure: Failure) -> Failure {
    failure
        .hint("it has probably ended just now; start it with `orfe run`, or look at its log".to_owned())
        .exit(Exit::NotRunning)
}

fn unexpected(answer: Option<&Answer>) -> Failure {
    match answer {
        None => no_answer(),
        Some(_) => Failure::new("the daemon answered something else than was asked")
            .hint("the daemon may be of another version; restart it".to_owned()),
    }
}

fn not_there(socket: &Path, error: io::Error) -> Failure {
    let failure = match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(format!(
            "no permission to use the daemon's control socket {}",
            socket.display()
        ))
        .hint("run it as the user that the daemon runs as, or with sudo".to_owned())
        .exit(Exit::NotPermitted),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new(format!("no daemon answers on {}", socket.display()))
                .hint("start it with `orfe run`, or name its socket with `--control`".to_owned())
                .exit(Exit::NotRunning)
        }
        _ => Failure::new(format!("cannot speak to the daemon on {}", socket.display())),
    };
    failure.because(error)
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    ended(Failure::new("the exchange with the daemon broke").because(error))
}
