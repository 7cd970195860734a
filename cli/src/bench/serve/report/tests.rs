//! Reports of known runs.

use std::time::Duration;

use super::*;
use crate::bench::serve::sample::{Failure, Sample, Usage};
use crate::bench::serve::stats::Seen;

fn sample(i: u64, usage: Usage) -> Sample {
    let ms = Duration::from_millis;
    Sample {
        due: ms(100 * i),
        sent: ms(100 * i + 5),
        first: Some(ms(100 * i + 50)),
        last: Some(ms(100 * i + 90)),
        ended: ms(100 * i + 91),
        wanted: 20,
        seen: 5,
        usage,
    }
}

fn report(pace: Pace, slo: Slo, usage: Usage) -> Report {
    let mut seen = Seen { samples: (0..10).map(|i| sample(i, usage)).collect(), ..Seen::default() };
    seen.fail(Failure::new("timeout", "too late"));
    let about = About {
        model: "m".into(),
        door: "grpc",
        target: "host:1".into(),
        pace,
        trace: None,
        requests: 12,
        seed: 3,
        slo,
        notes: vec!["a note"],
    };
    let loaded = Loaded { seen, duration: Duration::from_secs(2), unfinished: 1, interrupted: true };
    Report::new(about, loaded)
}

const COUNTED: Usage = Usage { prompt: Some(19), output: Some(5), cached: Some(10) };

#[test]
fn the_table_says_what_was_run_and_found() {
    let slo = Slo { ttft_ms: Some(60.0), tpot_ms: Some(5.0) };
    let table = report(Pace::Poisson { rate: 10.0 }, slo, COUNTED).table();
    for part in [
        "m at host:1 (grpc): open loop, 10 requests/s, synthetic lengths, seed 3",
        "10 of 12 requests answered, 1 failed, 1 under way when it was interrupted; 2.0 s",
        "time to first token         50.0      50.0      50.0      50.0      50.0      50.0",
        "per output token            10.0",
        "end to end                  91.0",
        "sent after due               5.0",
        "count from when a request was due",
        "requests/s             5.00",
        "output tokens/s        25.0",
        "190, 95.0 % of what was wanted, 100 from a cache (52.6 %)",
        "0.00 requests/s, 0.0 % of all, first token within 60 ms, each further within 5 ms",
        "1  timeout: too late",
        "a note",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let closed = report(Pace::Closed { concurrency: 2 }, Slo::default(), Usage::default()).table();
    assert!(
        closed.contains("closed loop, 2 at a time") && closed.contains("10 answers came without usage"),
        "{closed}"
    );
    for part in ["sent after due", "goodput", "from a cache", "when a request was due"] {
        assert!(!closed.contains(part), "{part}\n{closed}");
    }
}

#[test]
fn json_has_every_figure() {
    let slo = Slo { ttft_ms: Some(60.0), tpot_ms: None };
    let json = report(Pace::Trace { speed: 2.0 }, slo, COUNTED).json();
    assert_eq!(json["loop"], json!({"kind": "open", "speed": 2.0}));
    assert_eq!(json["requests"], json!({"planned": 12, "answered": 10, "failed": 1, "under_way": 1}));
    assert_eq!(json["prompt_tokens"], json!({"wanted": 200, "counted": 190, "cached": 100}));
    assert_eq!((&json["ttft_ms"]["p99"], &json["tpot_ms"]["count"]), (&50.0.into(), &10.into()));
    assert_eq!((&json["goodput"]["requests"], &json["goodput"]["requests_per_s"]), (&10.into(), &5.0.into()));
    assert_eq!(json["failures"][0], json!({"kind": "timeout", "count": 1, "example": "too late"}));
    let json = report(Pace::Closed { concurrency: 2 }, Slo::default(), Usage::default()).json();
    assert!(
        json["goodput"].is_null() && json["sent_after_due_ms"].is_null() && json["prompt_tokens"]["cached"].is_null()
    );
}

#[test]
fn curves_show_all_requests_over_the_run() {
    let plots = report(Pace::Closed { concurrency: 2 }, Slo::default(), COUNTED).plots();
    assert_eq!(plots.iter().map(|plot| plot.curves.len()).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(plots[0].curves[0].points.last(), Some(&(100.0, 50.0)));
    // One each 100 ms, in parts of 50 ms.
    assert_eq!(plots[2].curves[0].points.len(), 10);
    let times: Vec<f64> = plots[2].curves[0].points.iter().map(|(x, _)| *x).collect();
    assert!((times[1] - 0.125).abs() < 1e-9 && times.is_sorted(), "{times:?}");
    let none = Report { loaded: Loaded::default(), ..report(Pace::Closed { concurrency: 1 }, Slo::default(), COUNTED) };
    assert!(crate::plot::svg(&none.plots()).contains("</svg>"));
}
