//! The machine owner's own HTTP proxy, as the environment names it.

use orfe_tunnel::proxy::UpstreamProxy;
use secrecy::SecretString;

/// The proxy of `HTTPS_PROXY` or `HTTP_PROXY` with the exceptions of `NO_PROXY`; upper case goes before lower case. One that
/// cannot be used is said and passed over.
pub(crate) fn owners_proxy() -> Option<UpstreamProxy> {
    let proxy = variable("HTTPS_PROXY", "https_proxy").or_else(|| variable("HTTP_PROXY", "http_proxy"))?;
    let exceptions = variable("NO_PROXY", "no_proxy").unwrap_or_default();
    match UpstreamProxy::parse(&SecretString::from(proxy), &exceptions) {
        Ok(proxy) => Some(proxy),
        Err(error) => {
            tracing::warn!(%error, "the proxy of this machine's environment cannot be used");
            None
        }
    }
}

fn variable(upper: &str, lower: &str) -> Option<String> {
    [upper, lower]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}
