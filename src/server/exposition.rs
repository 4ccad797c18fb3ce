//! The two text formats of metrics: OpenMetrics 1.0, which the metrics are encoded in, and the older text format 0.0.4
//! of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>), for those who do not ask for
//! OpenMetrics, such as `promtool check metrics`.

use std::collections::HashMap;

/// The media type of OpenMetrics in an Accept header.
const OPENMETRICS: &str = "application/openmetrics-text";

/// Whether a client accepts OpenMetrics.
pub fn accepts_openmetrics(accept: &str) -> bool {
    accept.split(',').any(|range| range.split(';').next().is_some_and(|media| media.trim() == OPENMETRICS))
}

/// The same metrics in the older text format. There, the name of a counter has its `_total`, an info is a gauge called
/// `…_info`, and there are neither units nor an end mark.
pub fn text(openmetrics: &str) -> String {
    let kinds: HashMap<&str, &str> =
        openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|word| Some((word, line.strip_prefix(word)?)));
        match described.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some((word, (name, rest))) => {
                let suffix = match kinds.get(name) {
                    Some(&"counter") => "_total",
                    Some(&"info") => "_info",
                    _ => "",
                };
                let rest = if word == "# TYPE " && rest == "info" { "gauge" } else { rest };
                text.extend([word, name, suffix, " ", rest, "\n"]);
            }
            None if line.starts_with('#') => {}
            None => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_sent_to_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3";
        assert!(accepts_openmetrics(prometheus) && accepts_openmetrics("text/plain, application/openmetrics-text"));
        assert!(!accepts_openmetrics("*/*") && !accepts_openmetrics(""));
    }

    #[test]
    fn counters_and_infos_have_their_suffixes_in_the_older_format() {
        let openmetrics = "# HELP a_waits Waits.\n# TYPE a_waits counter\na_waits_total 1\n\
                           # HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\n\
                           b_seconds{x=\"# TYPE a info\"} 2.0\n\
                           # HELP c Version.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let text_format = "# HELP a_waits_total Waits.\n# TYPE a_waits_total counter\na_waits_total 1\n\
                           # HELP b_seconds Time.\n# TYPE b_seconds gauge\n\
                           b_seconds{x=\"# TYPE a info\"} 2.0\n\
                           # HELP c_info Version.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(text(openmetrics), text_format);
    }
}
