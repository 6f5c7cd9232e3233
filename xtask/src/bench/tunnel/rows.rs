//! Rows: what was measured, medians over rounds, ratios within the run, JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::config::{Config, PoorPath};

/// Which way the bytes of a flow go, seen from the near end.
pub(super) use orfe_test_support::load::Direction;

/// What one row is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Case {
    /// As much as goes.
    Flow {
        streams: usize,
        direction: Direction,
        path: Option<PoorPath>,
    },
    /// Round trips at rest, and the first one after the start.
    Ping,
    /// Connections one after the other, 16 at a time.
    Connects,
}

/// Figures by the name of their JSON field.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// One row, with a set of figures for each round.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) config: Config,
    pub(super) case: Case,
    /// The congestion control of the kernel's TCP in this case; none where no kernel's TCP sends.
    pub(super) congestion_control: Option<String>,
    rounds: Vec<Figures>,
    /// Why there is none, when there is none.
    pub(super) missing: Option<String>,
}

impl Row {
    /// The median of a figure over the rounds that have it.
    pub(super) fn median(&self, name: &str) -> Option<f64> {
        let mut values: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|round| round.get(name).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            values.get(middle).copied()
        } else {
            Some(f64::midpoint(
                *values.get(middle.checked_sub(1)?)?,
                *values.get(middle)?,
            ))
        }
    }

    fn json(&self, rows: &Rows) -> Map<String, Value> {
        let mut json = Map::new();
        let mut put = |name: &str, value: Value| {
            json.insert(name.to_owned(), value);
        };
        put("config", self.config.name().into());
        if let Some(mode) = self.config.mode() {
            put("mode", mode.into());
        }
        if let Some(stack) = self.config.tcp_stack() {
            put("tcp_stack", stack.into());
        }
        if let Some(stack) = self.config.far_tcp_stack() {
            put("far_tcp_stack", stack.into());
        }
        match self.case {
            Case::Flow {
                streams,
                direction,
                path,
            } => {
                put("measure", "flow".into());
                put("streams", streams.into());
                put("direction", word(direction).into());
                if let Some(path) = path {
                    put("rtt_ms", (path.delay_ms * 2.0).into());
                    put("loss_percent", path.loss_percent.into());
                    put("bottleneck_mbit_s", path.bottleneck_mbit_s.into());
                }
            }
            Case::Ping => put("measure", "ping".into()),
            Case::Connects => put("measure", "connects".into()),
        }
        if let Some(name) = &self.congestion_control {
            put("congestion_control", name.as_str().into());
        }
        if let Some(reason) = &self.missing {
            put("missing", reason.as_str().into());
        }
        let names: Vec<&str> = self
            .rounds
            .iter()
            .flat_map(|round| round.keys().copied())
            .collect();
        for name in names {
            if let Some(value) = self.median(name) {
                put(name, rounded(value));
            }
        }
        put("rounds", self.rounds.len().into());
        for (field, other) in [
            ("vs_wireguard_go", Config::WireguardGo),
            ("vs_boringtun", Config::Boringtun),
        ] {
            if let Some(ratio) = rows.ratio(self, other) {
                put(field, rounded(ratio));
            }
        }
        json
    }
}

/// All rows of a run, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Rows(pub(super) Vec<Row>);

impl Rows {
    /// Adds a round's figures to the row of this case.
    pub(super) fn add(
        &mut self,
        config: Config,
        case: Case,
        congestion_control: Option<String>,
        figures: Figures,
    ) {
        let row = self.row(config, case);
        row.congestion_control = congestion_control;
        row.missing = None;
        row.rounds.push(figures);
    }

    /// Says why there are no figures; those of other rounds stay.
    pub(super) fn miss(&mut self, config: Config, case: Case, reason: String) {
        let row = self.row(config, case);
        if row.rounds.is_empty() {
            row.missing = Some(reason);
        }
    }

    fn row(&mut self, config: Config, case: Case) -> &mut Row {
        let index = self
            .0
            .iter()
            .position(|row| row.config == config && row.case == case)
            .unwrap_or_else(|| {
                self.0.push(Row {
                    config,
                    case,
                    congestion_control: None,
                    rounds: Vec::new(),
                    missing: None,
                });
                self.0.len() - 1
            });
        &mut self.0[index]
    }

    /// The row of this configuration and case, if it was begun.
    pub(super) fn find(&self, config: Config, case: Case) -> Option<&Row> {
        self.0.iter().find(|row| row.config == config && row.case == case)
    }

    /// How much more a row carries than the same case of `other`.
    pub(super) fn ratio(&self, row: &Row, other: Config) -> Option<f64> {
        let base = self.find(other, row.case)?.median("gbit_s")?;
        Some(row.median("gbit_s")? / base).filter(|ratio| ratio.is_finite())
    }

    /// As `target/bench/tunnel.json` has them.
    pub(super) fn json(&self) -> Vec<Map<String, Value>> {
        self.0.iter().map(|row| row.json(self)).collect()
    }
}

pub(super) const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

/// Four decimals are more than a run repeats.
fn rounded(value: f64) -> Value {
    ((value * 1e4).round() / 1e4).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Case = Case::Flow {
        streams: 1,
        direction: Direction::Up,
        path: None,
    };

    fn figures(gbit_s: f64) -> Figures {
        Figures::from([("gbit_s", gbit_s)])
    }

    #[test]
    fn rounds_become_medians_and_ratios() {
        let mut rows = Rows::default();
        for gbit_s in [3.0, 1.0, 2.0] {
            rows.add(Config::WireguardGo, UP, Some("bbr".to_owned()), figures(gbit_s));
        }
        rows.miss(Config::Boringtun, UP, "no compiler".to_owned());
        for gbit_s in [4.0, 5.0] {
            rows.add(Config::OrfeTun, UP, None, figures(gbit_s));
        }
        rows.miss(Config::OrfeTun, UP, "one round failed".to_owned());
        let json = rows.json();
        assert_eq!(json.len(), 3);
        assert_eq!(json[0]["gbit_s"], 2.0);
        assert_eq!(json[1]["missing"], "no compiler");
        assert_eq!(json[2]["gbit_s"], 4.5);
        assert_eq!(json[2]["vs_wireguard_go"], 2.25);
        assert_eq!(json[2].get("vs_boringtun"), None);
        assert_eq!(json[2].get("missing"), None);
        assert_eq!(
            (&json[2]["mode"], &json[2]["direction"]),
            (&"tun".into(), &"up".into())
        );
    }
}
