//! The rows as tables for a person, at most 80 columns wide. A configuration with more than one line has a heading of its own.

use std::fmt::Write as _;

use super::config::{Config, PoorPath};
use super::rows::{Case, Direction, Row, Rows, word};

/// Where a figure is not there.
const NONE: &str = "–";
/// A reason longer than this is cut; the whole of it is in the file.
const REASON: usize = 75;

/// All tables.
pub(super) fn render(rows: &Rows) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = flows(rows, &mut text);
    let _ = starts(rows, &mut text);
    let _ = poor_paths(rows, &mut text);
    let _ = missing(rows, &mut text);
    text
}

fn flows(rows: &Rows, text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "Throughput; near / far end; × of the newest wireguard-go and of boringtun-cli"
    )?;
    writeln!(
        text,
        "{:>4} {:<5}{:>8}{:>9}{:>18}{:>17}{:>9}{:>8}",
        "n", "way", "Gbit/s", "resent", "CPU-s/GB", "RSS MiB", "× go", "× bt"
    )?;
    let mut heading = None;
    for row in &rows.0 {
        let Case::Flow {
            streams,
            direction,
            path: None,
        } = row.case
        else {
            continue;
        };
        if row.missing.is_some() {
            continue;
        }
        if heading.replace(row.config) != Some(row.config) {
            writeln!(text, "{}", row.config.name())?;
        }
        writeln!(
            text,
            "{streams:>4} {:<5}{:>8}{:>9}{:>18}{:>17}{:>9}{:>8}",
            word(direction),
            figure(row.median("gbit_s"), 2),
            figure(row.median("retransmits"), 0),
            pair(row, "cpu_s_per_gb", "far_cpu_s_per_gb", 2),
            pair(row, "rss_mib", "far_rss_mib", 1),
            figure(rows.ratio(row, Config::WireguardGo), 2),
            figure(rows.ratio(row, Config::Boringtun), 2),
        )?;
    }
    Ok(())
}

fn starts(rows: &Rows, text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "\nStart to first answer, round trip at rest, connections 16 at a time"
    )?;
    for [name, start, ping, median, connects, p50, p99, failed] in [
        ["", "start", "ping", "median", "connects", "p50", "p99", ""],
        ["configuration", "ms", "ms", "ms", "/s", "ms", "ms", "failed"],
    ] {
        let line =
            format!("{name:<28}{start:>7}{ping:>7}{median:>7}{connects:>9}{p50:>7}{p99:>8}{failed:>7}");
        writeln!(text, "{}", line.trim_end())?;
    }
    for config in Config::ALL {
        let (ping, connects) = (rows.find(config, Case::Ping), rows.find(config, Case::Connects));
        let median = |row: Option<&Row>, name: &str| row.and_then(|row| row.median(name));
        if median(ping, "start_ms").is_none() && median(connects, "connections_s").is_none() {
            continue;
        }
        writeln!(
            text,
            "{:<28}{:>7}{:>7}{:>7}{:>9}{:>7}{:>8}{:>7}",
            config.name(),
            figure(median(ping, "start_ms"), 1),
            figure(median(ping, "ping_ms"), 3),
            figure(median(ping, "ping_p50_ms"), 3),
            figure(median(connects, "connections_s"), 0),
            figure(median(connects, "p50_ms"), 2),
            figure(median(connects, "p99_ms"), 2),
            figure(median(connects, "failed"), 0),
        )?;
    }
    Ok(())
}

fn poor_paths(rows: &Rows, text: &mut String) -> std::fmt::Result {
    if !rows
        .0
        .iter()
        .any(|row| matches!(row.case, Case::Flow { path: Some(_), .. }))
    {
        return Ok(());
    }
    writeln!(
        text,
        "\nPoor paths, 25 ms each way, one stream: Mbit/s up / down (congestion control)"
    )?;
    for path in PoorPath::ALL {
        let title = match path.bottleneck_mbit_s {
            Some(rate) => format!("{rate} Mbit/s"),
            None => format!("{} % loss", path.loss_percent),
        };
        write!(text, "{title:>20}")?;
    }
    writeln!(text)?;
    for config in Config::ON_POOR_PATHS {
        let find = |path, direction| {
            rows.find(
                config,
                Case::Flow {
                    streams: 1,
                    direction,
                    path: Some(path),
                },
            )
        };
        if PoorPath::ALL
            .into_iter()
            .all(|path| find(path, Direction::Up).is_none())
        {
            continue;
        }
        let mut controls = Vec::new();
        let mut figures = String::new();
        for path in PoorPath::ALL {
            let [up, down] = [Direction::Up, Direction::Down].map(|direction| {
                let row = find(path, direction);
                if let Some(control) = row.and_then(|row| row.congestion_control.as_deref())
                    && !controls.contains(&(word(direction), control))
                {
                    controls.push((word(direction), control));
                }
                figure(
                    row.and_then(|row| row.median("gbit_s"))
                        .map(|gbit_s| gbit_s * 1e3),
                    1,
                )
            });
            write!(figures, "{:>20}", format!("{up} / {down}"))?;
        }
        let controls: Vec<String> = controls
            .into_iter()
            .map(|(direction, name)| format!("{direction}: {name}"))
            .collect();
        writeln!(text, "{} ({})\n{figures}", config.name(), controls.join(", "))?;
    }
    Ok(())
}

/// Each reason once for each configuration.
fn missing(rows: &Rows, text: &mut String) -> std::fmt::Result {
    let mut said: Vec<(Config, &str)> = Vec::new();
    for row in &rows.0 {
        let Some(reason) = row.missing.as_deref() else {
            continue;
        };
        if said.contains(&(row.config, reason)) {
            continue;
        }
        if said.is_empty() {
            writeln!(text, "\nNot measured")?;
        }
        said.push((row.config, reason));
        let short: String = reason.chars().take(REASON).collect();
        let cut = if short.len() < reason.len() { "…" } else { "" };
        writeln!(text, "{}\n    {short}{cut}", row.config.name())?;
    }
    Ok(())
}

fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.decimals$}"))
}

fn pair(row: &Row, near: &str, far: &str, decimals: usize) -> String {
    format!(
        "{} / {}",
        figure(row.median(near), decimals),
        figure(row.median(far), decimals)
    )
}

#[cfg(test)]
mod tests {
    use super::super::rows::Figures;
    use super::*;

    #[test]
    fn no_line_is_wider_than_eighty_columns() {
        let mut rows = Rows::default();
        let figures = Figures::from([
            ("gbit_s", 12.345),
            ("retransmits", 123_456.0),
            ("cpu_s_per_gb", 1510.55),
            ("far_cpu_s_per_gb", 94.17),
            ("rss_mib", 8150.2),
            ("far_rss_mib", 416.2),
            ("start_ms", 1234.5),
            ("ping_ms", 12.345),
            ("ping_p50_ms", 12.345),
            ("connections_s", 14_800.0),
            ("p50_ms", 123.45),
            ("p99_ms", 1234.56),
            ("failed", 12_345.0),
        ]);
        for config in Config::ALL {
            if config == Config::Onetun {
                let reason = "no compiler is there, and so it could not be installed ".repeat(3);
                rows.miss(config, Case::Ping, reason);
            } else {
                rows.add(config, Case::Ping, None, figures.clone());
            }
            rows.add(config, Case::Connects, None, figures.clone());
            for path in [None].into_iter().chain(PoorPath::ALL.map(Some)) {
                for direction in [Direction::Up, Direction::Down] {
                    let case = Case::Flow {
                        streams: 4,
                        direction,
                        path,
                    };
                    rows.add(config, case, Some("bbr if available".to_owned()), figures.clone());
                }
                if let Some(path) = path {
                    let case = Case::Flow {
                        streams: 1,
                        direction: Direction::Up,
                        path: Some(path),
                    };
                    rows.add(config, case, Some("bbr if available".to_owned()), figures.clone());
                }
            }
        }
        let text = render(&rows);
        for line in text.lines() {
            assert!(
                line.chars().count() <= 80,
                "{} columns: {line}",
                line.chars().count()
            );
        }
        assert!(
            text.contains("orfe-namespace-to-tun") && text.contains("Not measured"),
            "{text}"
        );
    }
}
