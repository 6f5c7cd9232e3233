//! The recorded requests of the server's API, asked of the stand-in in their recorded order.

use std::net::SocketAddr;

use orfe_test_support::standin::server::{Config, StandIn, Tags};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::recordings;

/// Answers that the stand-in does not have, each with the reason.
const EXCEPTIONS: [(&str, &str); 7] = [
    ("template version with tags that nobody has", NO_JOBS),
    ("the same version, polled", NO_JOBS),
    ("jobs, pending", NO_JOBS),
    ("job by id", NO_JOBS),
    ("cancel it", NO_JOBS),
    ("after cancel", NO_JOBS),
    (
        "health report, provisioner daemons",
        "nobody asks the stand-in for the deployment's health",
    ),
];
const NO_JOBS: &str = "the stand-in has no templates and runs no jobs";
const COMPARED_HEADERS: [&str; 3] = ["Content-Type", "X-Coder-Build-Version", "Www-Authenticate"];

#[derive(Deserialize)]
struct Exchange {
    title: String,
    request: Option<Asked>,
    status: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    response: Value,
}

#[derive(Deserialize)]
struct Asked {
    method: String,
    path: String,
    headers: Map<String, Value>,
    body: Value,
    authenticated: bool,
}

struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

struct Servers {
    licensed: StandIn,
    unlicensed: StandIn,
    living_key: String,
    /// The key that the requests themselves make, and delete.
    made_key: String,
    _daemon: TcpStream,
}

#[tokio::test]
async fn the_server_answers_as_recorded() {
    let Some(folder) = recordings::folder() else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("http-api.json")).unwrap();
    let exchanges: Vec<Exchange> = serde_json::from_str(&text).unwrap();
    let mut servers = Servers::start().await;
    let (mut agreeing, mut excepted, mut differing) = (0, 0, Vec::new());
    for exchange in &exchanges {
        if let Some((_, reason)) = EXCEPTIONS.iter().find(|(title, _)| *title == exchange.title) {
            println!("{:<55} not asked: {reason}", exchange.title);
            excepted += 1;
            continue;
        }
        let differences = servers.ask(exchange).await;
        let verdict = if differences.is_empty() {
            "agrees"
        } else {
            "DIFFERS"
        };
        println!("{:<55} {verdict}", exchange.title);
        if differences.is_empty() {
            agreeing += 1;
        } else {
            differing.push(format!("{}\n  {}", exchange.title, differences.join("\n  ")));
        }
    }
    crate::announce(&format!(
        "{agreeing} of {} requests agree, {excepted} are not the stand-in's",
        exchanges.len()
    ));
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

impl Servers {
    async fn start() -> Self {
        let config = Config {
            psk: Some("psk-for-recordings".to_owned()),
            session_token: Some("owner".to_owned()),
            member_token: Some("member".to_owned()),
            ..Config::default()
        };
        let licensed = StandIn::start(config.clone()).await.unwrap();
        let unlicensed = StandIn::start(Config {
            licensed: false,
            ..config
        })
        .await
        .unwrap();
        let tags: Tags = [("gpu", "none"), ("arch", "amd64")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let living_key = licensed.create_key("rec-key-1", &tags).unwrap();
        licensed.create_key("rec-key-l", &tags).unwrap();
        let daemon = connect_daemon(licensed.address()).await;
        Self {
            licensed,
            unlicensed,
            living_key,
            made_key: String::new(),
            _daemon: daemon,
        }
    }

    async fn ask(&mut self, exchange: &Exchange) -> Vec<String> {
        let asked = exchange.request.as_ref().unwrap();
        let without_licence = exchange.title.contains("no licence");
        let server = if without_licence {
            &self.unlicensed
        } else {
            &self.licensed
        };
        let answered = exchange_with(server.address(), &self.request(&exchange.title, asked)).await;
        if exchange.title == "create key" {
            let body: Value = serde_json::from_str(&answered.body).unwrap();
            body["key"].as_str().unwrap().clone_into(&mut self.made_key);
        }
        differences(exchange, &answered)
    }

    fn request(&self, title: &str, asked: &Asked) -> String {
        // The recorded organization's id; the stand-in's differs, and both know it by name.
        let path = asked
            .path
            .replace("4148d309-99a0-4305-89dc-eb0ba8de9081", "default");
        let body = if asked.body.is_null() {
            String::new()
        } else {
            asked.body.to_string()
        };
        let mut lines = vec![
            format!("{} {path} HTTP/1.1", asked.method),
            "Host: x".to_owned(),
            "Connection: close".to_owned(),
            format!("Content-Length: {}", body.len()),
        ];
        if asked.authenticated {
            lines.push("Coder-Session-Token: owner".to_owned());
        }
        for (name, value) in &asked.headers {
            let value = match value.as_str().unwrap() {
                "<session token>" => "member",
                placeholder if placeholder.starts_with("<provisioner key") => {
                    if title.contains("living") {
                        &self.living_key
                    } else {
                        &self.made_key
                    }
                }
                value => value,
            };
            lines.push(format!("{name}: {value}"));
        }
        format!("{}\r\n\r\n{body}", lines.join("\r\n"))
    }
}

/// Dials in as the daemon `twin` and stays.
async fn connect_daemon(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "GET /api/v2/organizations/default/provisionerdaemons/serve?name=twin&provisioner=terraform&\
                tag=scope%3Dorganization&version=1.9&version=1.9 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                Coder-Provisioner-Daemon-PSK: psk-for-recordings\r\nX-Coder-Build-Version: v2.26.0\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 101");
    stream
}

async fn exchange_with(address: SocketAddr, request: &str) -> Answered {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Answered {
        status,
        headers,
        body: body.to_owned(),
    }
}

/// The body of a GET with a session token.
pub(crate) async fn get(address: SocketAddr, path: &str, token: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCoder-Session-Token: {token}\r\n\r\n"
    );
    exchange_with(address, &request).await.body
}

fn differences(exchange: &Exchange, answered: &Answered) -> Vec<String> {
    let mut found = Vec::new();
    if exchange.status != answered.status {
        found.push(format!(
            "status: recorded {}, actual {}",
            exchange.status, answered.status
        ));
    }
    let header = |name: &str| {
        let found = answered
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| without_port(value))
    };
    for name in COMPARED_HEADERS {
        let recorded = exchange
            .headers
            .get(name)
            .and_then(Value::as_str)
            .map(without_port);
        if recorded != header(name) {
            found.push(format!(
                "{name}: recorded {recorded:?}, actual {:?}",
                header(name)
            ));
        }
    }
    if header("Orfe-Stand-In").as_deref() != Some("coder") {
        found.push("it does not say that it is a stand-in".to_owned());
    }
    let body = serde_json::from_str(&answered.body).unwrap_or(Value::String(answered.body.clone()));
    compare("body", &exchange.response, &body, &mut found);
    found
}

fn without_port(text: &str) -> String {
    match text.split_once("127.0.0.1:") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
            format!("{before}127.0.0.1:PORT{rest}")
        }
        None => text.to_owned(),
    }
}

fn compare(path: &str, recorded: &Value, actual: &Value, found: &mut Vec<String>) {
    match (recorded, actual) {
        // What the licence warns of is the deployment's own.
        (Value::Array(_), Value::Array(_)) if path == "body.warnings" => {}
        (Value::Object(left), Value::Object(right)) => {
            let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            let (mut recorded_keys, mut actual_keys) = (keys(left), keys(right));
            recorded_keys.sort();
            actual_keys.sort();
            if recorded_keys != actual_keys {
                found.push(format!(
                    "{path}: recorded keys {recorded_keys:?}, actual {actual_keys:?}"
                ));
                return;
            }
            for (key, value) in left {
                compare(&format!("{path}.{key}"), value, &right[key], found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{path}[{index}]"), left, right, found);
            }
        }
        (Value::String(left), Value::String(right)) if same_text(path, left, right) => {}
        (left, right) if left == right => {}
        (left, right) => found.push(format!("{path}: recorded {left}, actual {right}")),
    }
}

fn same_text(path: &str, left: &str, right: &str) -> bool {
    let both = |is: fn(&str) -> bool| is(left) && is(right);
    without_port(left) == without_port(right)
        || both(|text| text.parse::<uuid::Uuid>().is_ok())
        || both(|text| text.parse::<jiff::Timestamp>().is_ok())
        || (left.starts_with("<provisioner key") && right.len() == 43)
        || (path.ends_with("webpush_public_key") && left.len() == right.len())
        || both(|text| text.starts_with("unauthorized: rbac: forbidden"))
}
