//! The load's client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::proxy::connect;
use super::{BLOCK, Direction, Job, Purpose};

/// How long a connection may take, its byte there and back included, before it counts as failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A running flow; dropping it closes its connections.
#[derive(Debug)]
pub struct Flow {
    received: Arc<AtomicU64>,
    streams: JoinSet<io::Result<()>>,
}

impl Flow {
    /// Opens all streams, then lets them go.
    pub async fn start(job: &Job, streams: usize, direction: Direction) -> io::Result<Self> {
        let mut open = Vec::new();
        for _ in 0..streams {
            open.push(connect(&job.to, job.proxy.as_ref()).await?);
        }
        let received = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for mut stream in open {
            let received = Arc::clone(&received);
            tasks.spawn(async move {
                let mut block = vec![0; BLOCK];
                match direction {
                    Direction::Up => {
                        stream.write_u8(Purpose::Swallow.byte()).await?;
                        loop {
                            stream.write_all(&block).await?;
                        }
                    }
                    Direction::Down => {
                        stream.write_u8(Purpose::Pour.byte()).await?;
                        loop {
                            match stream.read(&mut block).await? {
                                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                                read => received.fetch_add(read as u64, Ordering::Relaxed),
                            };
                        }
                    }
                }
            });
        }
        Ok(Self {
            received,
            streams: tasks,
        })
    }

    /// Bytes received so far; none in the direction up.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until a stream breaks off, and says why. Without streams it never does.
    pub async fn broken(&mut self) -> String {
        match self.streams.join_next().await {
            Some(Ok(Ok(()))) => "a stream ended".to_owned(),
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) => error.to_string(),
            None => std::future::pending().await,
        }
    }
}

/// Opens `streams` connections on which the server sends, and reads from none.
pub async fn hold(job: &Job, streams: usize) -> io::Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut stream = connect(&job.to, job.proxy.as_ref()).await?;
        stream.write_u8(Purpose::Pour.byte()).await?;
        open.push(stream);
    }
    Ok(open)
}

/// What connecting again and again came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectsReport {
    /// Connections that carried their byte there and back.
    pub connections: u64,
    /// Those that did not.
    pub failed: u64,
    /// How long it took.
    pub seconds: f64,
    /// From the beginning of the connect to the byte's return: the median, in milliseconds.
    pub p50_ms: f64,
    /// The same, 99 of 100.
    pub p99_ms: f64,
}

/// Connects for `time`, and at least once, `parallel` at once.
pub async fn connects(job: &Job, parallel: usize, time: Duration) -> ConnectsReport {
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..parallel {
        let job = job.clone();
        workers.spawn(async move {
            let (mut took, mut failed) = (Vec::new(), 0);
            loop {
                let begun = Instant::now();
                match tokio::time::timeout(ANSWER_WITHIN, there_and_back(&job)).await {
                    Ok(Ok(())) => took.push(begun.elapsed()),
                    Ok(Err(_)) | Err(_) => failed += 1,
                }
                if started.elapsed() >= time {
                    break;
                }
            }
            (took, failed)
        });
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    while let Some(worker) = workers.join_next().await {
        let (some, others) = worker.unwrap_or_default();
        took.extend(some);
        failed += others;
    }
    let seconds = started.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index.min(took.len().saturating_sub(1)))
            .map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    ConnectsReport {
        connections: took.len() as u64,
        failed,
        seconds,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

async fn there_and_back(job: &Job) -> io::Result<()> {
    let mut stream = connect(&job.to, job.proxy.as_ref()).await?;
    stream.write_all(&[Purpose::Echo.byte(), b'x']).await?;
    if stream.read_u8().await? == b'x' {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// What an echo came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EchoReport {
    /// Came back as they were sent, on all streams.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Sends `bytes` on each of `streams`, closes that direction, and compares what comes back, byte by byte, to its end.
pub async fn echo(job: &Job, streams: usize, bytes: u64) -> io::Result<EchoReport> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..streams {
        let job = job.clone();
        tasks.spawn(async move {
            let stream = connect(&job.to, job.proxy.as_ref()).await?;
            echo_one(stream, number as u64, bytes).await
        });
    }
    while let Some(one) = tasks.join_next().await {
        one.map_err(io::Error::other)??;
    }
    Ok(EchoReport {
        bytes: bytes * streams as u64,
        seconds: started.elapsed().as_secs_f64(),
    })
}

async fn echo_one(mut stream: TcpStream, number: u64, bytes: u64) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let writing = async {
        write.write_u8(Purpose::Echo.byte()).await?;
        let mut pattern = Pattern::new(number);
        let (mut block, mut left) = (vec![0; BLOCK], bytes);
        while left > 0 {
            let len = left.min(BLOCK as u64) as usize;
            pattern.fill(&mut block[..len]);
            write.write_all(&block[..len]).await?;
            left -= len as u64;
        }
        write.shutdown().await
    };
    let reading = async {
        let mut pattern = Pattern::new(number);
        let (mut block, mut expected, mut came) = (vec![0; BLOCK], vec![0; BLOCK], 0);
        loop {
            let read = read.read(&mut block).await?;
            if read == 0 {
                break;
            }
            pattern.fill(&mut expected[..read]);
            if block[..read] != expected[..read] {
                return Err(io::Error::other(format!(
                    "stream {number} differs within {read} bytes after {came}"
                )));
            }
            came += read as u64;
        }
        if came == bytes {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "stream {number}: {came} of {bytes} bytes came back"
            )))
        }
    };
    tokio::try_join!(writing, reading).map(drop)
}

/// A series of bytes that does not repeat soon, the same for the same seed (xorshift64*, Vigna 2016).
struct Pattern {
    state: u64,
    /// The current word and how many of its bytes are used.
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    fn new(seed: u64) -> Self {
        Self {
            // Never zero, which the series would not leave.
            state: (seed << 1 | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            word: [0; 8],
            used: 8,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == 8 {
                self.state ^= self.state >> 12;
                self.state ^= self.state << 25;
                self.state ^= self.state >> 27;
                self.word = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::super::server::Server;
    use super::*;

    fn job(server: &Server) -> Job {
        Job {
            to: server.address().to_string(),
            proxy: None,
            work: Work::Echo { streams: 1, bytes: 1 },
        }
    }

    #[tokio::test]
    async fn flows_are_counted_by_their_receiver_and_echoes_compared() {
        let server = Server::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let job = job(&server);
        let up = Flow::start(&job, 2, Direction::Up).await.unwrap();
        let down = Flow::start(&job, 2, Direction::Down).await.unwrap();
        crate::wait::wait_for("a megabyte each way", Duration::from_secs(20), || {
            let counts = (server.received(), down.received());
            if counts.0 > 1_000_000 && counts.1 > 1_000_000 {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        })
        .await
        .unwrap();
        assert_eq!(up.received(), 0);
        drop((up, down));
        assert_eq!(echo(&job, 3, 1_000_001).await.unwrap().bytes, 3_000_003);
        let report = connects(&job, 4, Duration::from_millis(50)).await;
        assert!(report.connections > 0 && report.failed == 0, "{report:?}");
        assert!(report.p50_ms > 0.0 && report.p50_ms <= report.p99_ms);
    }

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_cut() {
        let (mut whole, mut cut) = (Pattern::new(5), Pattern::new(5));
        let (mut a, mut b) = ([0; 100], [0; 100]);
        whole.fill(&mut a);
        for part in b.chunks_mut(7) {
            cut.fill(part);
        }
        assert_eq!(a, b);
        let mut other = [0; 100];
        Pattern::new(6).fill(&mut other);
        assert_ne!(a, other);
    }
}
