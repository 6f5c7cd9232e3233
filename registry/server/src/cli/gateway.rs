//! `orfe-registry gateway …`

use std::io::Write;

use super::client::Client;
use super::table::{hang, harmless};
use super::{Failure, GatewayCommand, print, print_json};
use crate::api::{GatewayAnswer, RotateKey};
use crate::span::Span;

/// Width of the labels.
const LABEL: usize = 14;

/// Width that sentences are wrapped to.
const WIDTH: usize = 80;

pub(super) async fn run(
    client: &Client,
    command: &GatewayCommand,
    width: Option<usize>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let (answer, format): (GatewayAnswer, _) = match command {
        GatewayCommand::Show(format) => (client.get("/v1/gateway").await?, format),
        GatewayCommand::RotateKey {
            finish: true, format, ..
        } => (client.post("/v1/gateway/finish", &()).await?, format),
        GatewayCommand::RotateKey { after, format, .. } => {
            let request = RotateKey {
                after_s: after.map(Span::whole_seconds),
            };
            request.check()?;
            (client.post("/v1/gateway/rotate", &request).await?, format)
        }
    };
    if format.json {
        print_json(out, &answer)
    } else {
        print(out, &page(&answer, width))
    }
}

fn page(answer: &GatewayAnswer, width: Option<usize>) -> String {
    let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
    let mut rows = vec![
        ("public key", answer.public_key.to_string()),
        ("endpoint", answer.endpoint.clone()),
    ];
    if !answer.also.is_empty() {
        rows.push(("else by", answer.also.join(", ")));
    }
    rows.push(("addresses", addresses.join(", ")));
    if let Some(tcp) = &answer.tcp {
        let control = tcp.congestion_control.as_ref();
        let control = control.map_or_else(String::new, |control| format!(", {control}"));
        rows.push(("tcp", format!("{}{control}: {}", tcp.stack, tcp.reason)));
        rows.extend(tcp.hint.clone().map(|hint| ("hint", hint)));
    }
    if let Some(old) = &answer.old_key {
        let ends = old
            .until
            .map_or("with `gateway rotate-key --finish`".to_owned(), |at| {
                format!("{at:.0}")
            });
        let users = if old.still_used_by.is_empty() {
            "nobody".to_owned()
        } else {
            old.still_used_by.join(", ")
        };
        rows.push(("old key", old.public_key.to_string()));
        rows.push(("old key ends", ends));
        rows.push(("still used by", users));
    }
    let mut text = String::new();
    for (label, value) in rows {
        // Sentences are wrapped wherever they go. What may be copied, such as an address, stays whole but on a terminal.
        let is_sentence = matches!(label, "tcp" | "hint");
        let width = if is_sentence {
            Some(width.map_or(WIDTH, |width| width.min(WIDTH)))
        } else {
            width
        };
        let label = format!("{label:LABEL$}");
        hang(&mut text, &label, &harmless(&value), width);
    }
    text
}

#[cfg(test)]
mod tests {
    use orfe_protocol::key::WireGuardPublicKey;

    use super::*;
    use crate::api::{OldKeyView, TcpView};

    #[test]
    fn both_keys_are_shown_while_they_change() {
        let answer = GatewayAnswer {
            version: 1,
            public_key: WireGuardPublicKey::from_bytes([1; 32]),
            old_key: Some(OldKeyView {
                public_key: WireGuardPublicKey::from_bytes([2; 32]),
                until: Some("2027-01-15T08:00:00Z".parse().unwrap()),
                still_used_by: vec!["laptop".into(), "peer alice".into()],
            }),
            endpoint: "orfe.example.com:51820".into(),
            also: vec![
                "orfe.example.com:443".into(),
                "wss://orfe.example.com:7443/agent/v1/tunnel".into(),
            ],
            addresses: vec!["100.127.0.1".parse().unwrap(), "10.10.0.1".parse().unwrap()],
            tcp: Some(TcpView {
                stack: "namespace".into(),
                congestion_control: Some("bbr".into()),
                reason: "this system allows a private network namespace".into(),
                hint: None,
            }),
        };
        insta::assert_snapshot!(page(&answer, Some(80)), @r"
        public key    AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
        endpoint      orfe.example.com:51820
        else by       orfe.example.com:443, wss://orfe.example.com:7443/agent/v1/tunnel
        addresses     100.127.0.1, 10.10.0.1
        tcp           namespace, bbr: this system allows a private network namespace
        old key       AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
        old key ends  2027-01-15T08:00:00Z
        still used by laptop, peer alice
        ");
        let one = GatewayAnswer {
            old_key: None,
            also: Vec::new(),
            tcp: Some(TcpView {
                stack: "smoltcp".into(),
                congestion_control: None,
                reason: "no private network namespace here: making a namespace was refused (Operation not permitted)".into(),
                hint: Some("allow it".into()),
            }),
            ..answer
        };
        insta::assert_snapshot!(page(&one, None), @r"
        public key    AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
        endpoint      orfe.example.com:51820
        addresses     100.127.0.1, 10.10.0.1
        tcp           smoltcp: no private network namespace here: making a namespace was
                      refused (Operation not permitted)
        hint          allow it
        ");
    }
}
