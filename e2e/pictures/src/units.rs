//! How figures are written, by the units of Grafana that the dashboards have.

/// A number without needless digits.
fn short(value: f64) -> String {
    match value {
        _ if value == 0.0 => "0".to_owned(),
        _ if value.abs() >= 1e6 => format!("{} M", short(value / 1e6)),
        _ if value.abs() >= 100.0 || (value.fract() == 0.0) => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value as a person reads it.
pub fn written(value: f64, unit: &str) -> String {
    match unit {
        "s" if value.abs() >= 120.0 => format!("{} min", short(value / 60.0)),
        "s" if value.abs() >= 1.0 || value == 0.0 => format!("{} s", short(value)),
        "s" => format!("{} ms", short(value * 1e3)),
        "ms" if value >= 1e3 => written(value / 1e3, "s"),
        "ms" => format!("{} ms", short(value)),
        "bytes" => {
            let units = ["B", "KiB", "MiB", "GiB", "TiB"];
            let mut at = (value, 0);
            while at.0.abs() >= 1024.0 && at.1 + 1 < units.len() {
                at = (at.0 / 1024.0, at.1 + 1);
            }
            format!("{} {}", short(at.0), units[at.1])
        }
        "percentunit" => format!("{} %", short(value * 100.0)),
        "reqps" => format!("{}/s", short(value)),
        _ => short(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_with_the_unit_that_suits_its_size() {
        let cases = [
            (0.0004, "s", "0.40 ms"),
            (2.5, "s", "2.50 s"),
            (2.0, "ms", "2 ms"),
            (2500.0, "ms", "2.50 s"),
            (600.0, "s", "10 min"),
            (5_242_880.0, "bytes", "5 MiB"),
            (0.955, "percentunit", "95.5 %"),
            (12.0, "reqps", "12/s"),
            (1234.5, "short", "1234"),
            (2_500_000.0, "short", "2.50 M"),
        ];
        for (value, unit, expected) in cases {
            assert_eq!(written(value, unit), expected);
        }
    }
}
