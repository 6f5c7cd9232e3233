//! The configuration file of a plain WireGuard client, as `wg-quick` and the phone apps read it, and its QR code.

use std::fmt::Write as _;

use orfe_protocol::secret::Secret;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

use crate::api::PeerAnswer;
use crate::cli::Failure;

/// What only this process knows.
pub(super) struct Keys<'a> {
    /// None when the client has made its own.
    pub(super) private: Option<Zeroizing<String>>,
    pub(super) preshared: Option<&'a Secret>,
}

/// The file. Without a private key it says where the client's own belongs, and is valid as it stands.
pub(super) fn render(answer: &PeerAnswer, keys: &Keys<'_>, with_dns: bool) -> Zeroizing<String> {
    let client = &answer.client;
    let mut text = Zeroizing::new(String::with_capacity(1024));
    // Writing to a string cannot fail.
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {value}");
    };
    line("# Name", answer.peer.name.as_str());
    line("[Interface]\nAddress", &client.addresses.join(", "));
    match &keys.private {
        Some(private) => line("PrivateKey", private),
        None => line(
            "# PrivateKey",
            &format!("(the one that belongs to {})", answer.peer.wireguard_public_key),
        ),
    }
    if with_dns {
        let dns: Vec<String> = client.dns.iter().map(ToString::to_string).collect();
        // A client sends every question to the server named here, and most of them would be refused by a gateway that
        // answers for the cluster alone.
        if client.dns_is_whole {
            line("DNS", &dns.join(", "));
        } else {
            let why = "left out: answers for names of the policy and below [dns] suffixes only";
            line("# DNS", &format!("{} ({why})", dns.join(", ")));
        }
    }
    line("\n[Peer]\nPublicKey", &client.gateway_public_key.to_string());
    if let Some(preshared) = keys.preshared {
        line("PresharedKey", preshared.expose());
    }
    line("Endpoint", &client.endpoint);
    line("AllowedIPs", &client.allowed_ips.join(", "));
    line("PersistentKeepalive", &client.keepalive_s.to_string());
    text
}

/// The file as a QR code of block characters, two rows in a line.
pub(super) fn qr(conf: &str) -> Result<Zeroizing<String>, Failure> {
    let code = QrCode::with_error_correction_level(conf, EcLevel::L)
        .map_err(|error| Failure::new(format!("the configuration fits no QR code: {error}")))?;
    // Dark modules stay the terminal's background only on a light one, so the colours are exchanged: most terminals are
    // dark, and cameras read both.
    let text = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    Ok(Zeroizing::new(format!("{text}\n")))
}
