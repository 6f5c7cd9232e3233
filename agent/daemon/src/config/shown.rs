//! The configuration as `orfe config show` lists it.

use std::path::Path;

use super::{Config, Origin, local};

impl Config {
    /// Name, value and origin of every setting, in the order of the documentation.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String, Origin)> {
        let show = |path: &Path| path.display().to_string();
        let mut rows = vec![
            ("config", show(&self.file.value), self.file.origin),
            ("state", show(&self.state.value), self.state.origin),
            ("control", show(&self.control.value), self.control.origin),
            ("provisioner.coder", show(&self.coder.value), self.coder.origin),
            (
                "provisioner.path",
                self.path.value.to_string_lossy().into_owned(),
                self.path.origin,
            ),
            (
                "provisioner.drain_timeout_s",
                self.drain_timeout.value.as_secs().to_string(),
                self.drain_timeout.origin,
            ),
            (
                "proxy.listen",
                local::show_proxy(self.proxy_listen.value),
                self.proxy_listen.origin,
            ),
            (
                "forward",
                local::show_forwards(&self.forwards.value),
                self.forwards.origin,
            ),
            (
                "http_proxy.url",
                self.http_proxy.value.show(),
                self.http_proxy.origin,
            ),
            (
                "http_proxy.no_proxy",
                self.no_proxy.value.clone(),
                self.no_proxy.origin,
            ),
            (
                "tunnel.tcp_stack",
                self.tcp_stack.value.to_string(),
                self.tcp_stack.origin,
            ),
            (
                "tunnel.mode",
                self.tunnel_mode.value.as_str().to_owned(),
                self.tunnel_mode.origin,
            ),
            (
                "tunnel.split_dns",
                self.split_dns.value.to_string(),
                self.split_dns.origin,
            ),
            (
                "tunnel.bridges",
                self.bridges.value.to_string(),
                self.bridges.origin,
            ),
        ];
        rows.extend(self.containers.rows());
        rows.extend([
            (
                "log.filter",
                self.log_filter.value.clone(),
                self.log_filter.origin,
            ),
            (
                "log.format",
                self.log_format.value.as_str().to_owned(),
                self.log_format.origin,
            ),
        ]);
        rows
    }
}
