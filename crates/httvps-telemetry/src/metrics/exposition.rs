//! The two text formats in which metrics are served.

/// The classic text format, which every Prometheus reads.
pub(super) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics 1.0.0.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether an `Accept` header names OpenMetrics without forbidding it (`q=0`).
pub(super) fn wants_open_metrics(accept: Option<&str>) -> bool {
    accept.unwrap_or_default().split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
        let forbidden = |part: &str| {
            part.strip_prefix("q=")
                .and_then(|q| q.trim().parse::<f32>().ok())
                .is_some_and(|q| q <= 0.0)
        };
        named && !parts.any(forbidden)
    })
}

/// Turns OpenMetrics into the classic format: families are named as their samples are, and the
/// types that the classic format does not have become the nearest one.
pub(super) fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The type, which decides on the name, comes on the next line.
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            for part in
                ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"]
            {
                out.push_str(part);
            }
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_must_be_asked_for() {
        for accept in [
            "application/openmetrics-text",
            "text/plain;q=0.1, Application/OpenMetrics-Text; version=1.0.0;q=0.5",
        ] {
            assert!(wants_open_metrics(Some(accept)), "{accept}");
        }
        for accept in ["", "*/*", "text/plain", "application/openmetrics-text;q=0", "text/html,;,"]
        {
            assert!(!wants_open_metrics(Some(accept)), "{accept}");
        }
        assert!(!wants_open_metrics(None));
    }

    #[test]
    fn names_and_types_become_classic() {
        let open = "# HELP a About a.\n# TYPE a counter\na_total{x=\"# y\"} 1\n\
                    # HELP b_seconds About b.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n\
                    # HELP c About c.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_total About a.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n\
                        # HELP b_seconds About b.\n# TYPE b_seconds gauge\nb_seconds 2\n\
                        # HELP c_info About c.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(classic(open), expected);
    }
}
