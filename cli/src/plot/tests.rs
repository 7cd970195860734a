//! Plots of known points.

use super::axis::Axis;
use super::*;

fn curve(name: &str, points: &[(f64, f64)]) -> Curve {
    Curve { name: name.into(), points: points.to_vec() }
}

fn plot() -> Plot {
    let sparse = curve("sparse", &[(128.0, 10.0), (512.0, 8.0), (2048.0, 7.0)]);
    let dense = curve("dense <all>", &[(128.0, 10.0), (512.0, 7.5), (2048.0, 6.0)]);
    Plot { title: "perplexity".into(), x: "position".into(), x_log2: true, y_ends: None, curves: vec![sparse, dense] }
}

#[test]
fn axes_end_at_round_numbers() {
    let labels = |axis: &Axis| axis.ticks.iter().map(|tick| axis.label(*tick)).collect::<Vec<_>>();
    let axis = Axis::linear((6.1, 9.87), 5);
    assert_eq!(labels(&axis), ["6", "7", "8", "9", "10"]);
    assert_eq!((axis.at(6.0), axis.at(10.0), axis.at(8.0)), (0.0, 1.0, 0.5));
    assert_eq!(labels(&Axis::linear((-0.2, 1.0), 5)), ["-0.5", "0.0", "0.5", "1.0"]);
    assert_eq!(labels(&Axis::linear((0.991, 1.006), 5)), ["0.990", "0.995", "1.000", "1.005", "1.010"]);
}

#[test]
fn equal_values_lie_in_the_middle() {
    for value in [0.0, 1.0, 250.0] {
        let axis = Axis::linear((value, value), 4);
        assert!((0.3..0.7).contains(&axis.at(value)), "{axis:?}");
    }
}

#[test]
fn an_axis_by_powers_of_two_has_them_as_ticks() {
    let axis = Axis::log2((150.0, 3000.0), 8);
    assert_eq!(axis.ticks, [128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0]);
    assert_eq!((axis.at(128.0), axis.at(4096.0)), (0.0, 1.0));
    assert!(Axis::log2((1.0, 1e6), 8).ticks.len() <= 8);
    assert_eq!(Axis::log2((128.0, 128.0), 8).ticks, [128.0, 256.0]);
}

#[test]
fn a_terminal_shows_marks_where_the_points_are() {
    let text = terminal(&plot());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "perplexity");
    // Both begin at the top left.
    assert!(lines[1].starts_with("      10 ┤◉"), "{text}");
    assert!(lines[11].contains("6 ┤") && lines[11].ends_with('○'), "{text}");
    assert!(lines[13].contains("128") && lines[13].contains("2048"), "{text}");
    assert!(lines[14].contains("position") && lines[14].contains("● sparse  ○ dense <all>  ◉ both"), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn points_without_a_place_are_left_out() {
    let mut plot = plot();
    plot.curves[0].points.extend([(0.0, 1.0), (4096.0, f64::NAN), (f64::INFINITY, 1.0)]);
    assert_eq!(terminal(&plot), terminal(&self::plot()));
    assert!(!terminal(&Plot::default()).is_empty());
    assert!(svg(&[Plot::default()]).contains("</svg>"));
}

#[test]
fn the_svg_has_axes_ticks_legend_and_every_point_for_both_colour_schemes() {
    let text = svg(&[plot(), plot()]);
    assert!(text.contains("viewBox=\"0 0 720 640\""));
    assert_eq!(text.matches("<polyline").count(), 4);
    // Three points and one in the legend, of each curve.
    assert_eq!(text.matches("class=\"mark c0\"").count(), 8);
    assert_eq!(text.matches("class=\"mark c1\"").count(), 8);
    assert!(
        text.contains(">dense &lt;all></text>") && text.contains(">2048</text>") && text.contains(">position</text>")
    );
    assert!(text.contains("prefers-color-scheme: dark"));
}

#[test]
fn y_ends_that_are_given_are_kept() {
    let text = terminal(&Plot { y_ends: Some((0.0, 1.0)), ..plot() });
    assert!(text.contains("1.0 ┤") && text.contains("0.0 ┤"), "{text}");
}

#[test]
fn wide_labels_have_room() {
    let far = curve("far", &[(1.0, 2.5e9), (1e9, 7.5e10)]);
    let wide = Plot { x_log2: true, curves: vec![far], ..Plot::default() };
    let shown = terminal(&wide);
    let column = |line: &str| line.chars().position(|c| "│┤└".contains(c));
    let axis: std::collections::BTreeSet<_> = shown.lines().filter_map(column).collect();
    assert_eq!(axis.len(), 1, "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    // Eleven characters end 8 before the axis.
    assert!(svg(&[wide]).contains("x=\"90.5\" y=\"68.0\" text-anchor=\"end\">80000000000</text>"));
}

#[test]
fn names_with_characters_that_xml_does_not_have_are_shown_without() {
    let text = svg(&[Plot { title: "a\u{1b}[2Jb\u{0}c\u{ffff}".into(), ..plot() }]);
    assert!(text.contains(">a [2Jb c </text>"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}
