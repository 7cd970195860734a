//! What an evaluation found, as a table and curves for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::score::Score;
use crate::plot::{Curve, Plot, terminal};

/// Facts found at one distance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recall {
    /// Tokens between the fact and the question.
    pub(super) distance: usize,
    pub(super) asked: usize,
    /// Right answers with sparse attention.
    pub(super) sparse: usize,
    /// Right answers with dense attention.
    pub(super) dense: usize,
}

/// Conversations asked a second time, when their text was cached.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cached {
    pub(super) asked: usize,
    /// Of which a part came from a cache.
    pub(super) cached: usize,
    /// Whose answer was that without a cache, letter by letter.
    pub(super) same: usize,
    /// Whose answer was right.
    pub(super) right: usize,
    /// Tokens of all prompts that came from a cache.
    pub(super) cached_tokens: u64,
    /// Tokens of all prompts.
    pub(super) prompt_tokens: u64,
}

impl Cached {
    /// Both together.
    pub(super) fn plus(&self, more: &Self) -> Self {
        Self {
            asked: self.asked + more.asked,
            cached: self.cached + more.cached,
            same: self.same + more.same,
            right: self.right + more.right,
            cached_tokens: self.cached_tokens + more.cached_tokens,
            prompt_tokens: self.prompt_tokens + more.prompt_tokens,
        }
    }
}

/// All that was found.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) architecture: String,
    pub(super) text: String,
    /// Tokens of a window, and how many of them are the prompt.
    pub(super) window: usize,
    pub(super) prompt: usize,
    pub(super) windows: usize,
    /// Over all positions.
    pub(super) all: Score,
    pub(super) by_position: Vec<Score>,
    pub(super) others: usize,
    /// How needles were asked for: `chat` or, without a chat template, `text`.
    pub(super) asked_by: &'static str,
    /// Empty when no needles were asked for.
    pub(super) recall: Vec<Recall>,
    /// The distance, and sparse and dense; none when no needles were asked for.
    pub(super) cached: Option<(usize, [Cached; 2])>,
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn error(score: &Score) -> String {
    score.ratio_error.map_or_else(String::new, |error| format!("± {error:.4}"))
}

impl Report {
    /// Tables and curves.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        let Self { model, architecture, text, window, prompt, .. } = self;
        let windows = if self.windows == 1 { "1 window".to_owned() } else { format!("{} windows", self.windows) };
        let _ = writeln!(out, "{model} ({architecture}): sparse attention against dense, same weights");
        let _ = writeln!(out, "{text}: {windows} of {window} tokens, {prompt} of each given, the rest scored\n");
        self.positions(&mut out);
        self.needles(&mut out);
        self.through_cache(&mut out);
        for plot in self.plots() {
            let _ = writeln!(out, "\n{}", terminal(&plot));
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// Whether sparse attention left nothing out: then both kinds compute the same, to the bit.
    fn everything_chosen(&self) -> bool {
        self.all.ratio == 1.0 && self.all.ratio_error == Some(0.0)
    }

    fn positions(&self, out: &mut String) {
        let _ = writeln!(out, "perplexity by position");
        let _ = writeln!(
            out,
            "  {:<14} {:>7} {:>9} {:>9}  {:<18} overlap",
            "positions", "tokens", "sparse", "dense", "ratio"
        );
        for (score, all) in self.by_position.iter().map(|score| (score, false)).chain([(&self.all, true)]) {
            let (from, to) = score.positions;
            let positions = if all { "all".to_owned() } else { format!("{from} to {}", to - 1) };
            let Score { tokens, sparse, dense, ratio, .. } = score;
            let ratio = format!("{ratio:.4} {}", error(score));
            let overlap = number(score.overlap, 3);
            let _ = writeln!(out, "  {positions:<14} {tokens:>7} {sparse:>9.3} {dense:>9.3}  {ratio:<18} {overlap}");
        }
        if self.everything_chosen() {
            let _ = writeln!(out, "  Everything was chosen, so nothing was compared: give a longer --window.");
        }
    }

    fn needles(&self, out: &mut String) {
        if self.recall.is_empty() {
            return;
        }
        let among = if self.others > 0 { format!(", among {} others", self.others) } else { String::new() };
        let _ = writeln!(out, "\nfacts found, by tokens between fact and question{among}");
        let _ = writeln!(out, "  {:<14} {:>7} {:>9} {:>9}", "tokens", "asked", "sparse", "dense");
        for Recall { distance, asked, sparse, dense } in &self.recall {
            let _ = writeln!(out, "  {distance:<14} {asked:>7} {sparse:>9} {dense:>9}");
        }
        let _ = writeln!(out, "  Asked by {}.", self.asked_by);
    }

    fn through_cache(&self, out: &mut String) {
        let Some((distance, kinds)) = &self.cached else { return };
        let _ = writeln!(out, "\nthe same after another question, text of {distance} tokens cached");
        let [asked, from, tokens, same] = ["asked", "from cache", "of tokens", "same as uncached"];
        let _ = writeln!(out, "  {:<14} {asked:>7} {from:>11} {tokens:>10} {same:>17} {:>6}", "attention", "right");
        for (name, found) in ["sparse", "dense"].into_iter().zip(kinds) {
            let Cached { asked, cached, same, right, .. } = found;
            let share = format!("{:.0} %", 100.0 * share(found));
            let _ = writeln!(out, "  {name:<14} {asked:>7} {cached:>11} {share:>10} {same:>17} {right:>6}");
        }
    }

    /// The curves.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let title = |what: &str| format!("{what}, {}", self.model);
        // A position stands in the middle of its row, by powers of two.
        let at = |score: &Score| (score.positions.0 as f64 * (score.positions.1 - 1) as f64).sqrt();
        let positions = |name: &str, value: fn(&Score) -> Option<f64>| Curve {
            name: name.to_owned(),
            points: self.by_position.iter().filter_map(|score| Some((at(score), value(score)?))).collect(),
        };
        let plot = |what: &str, curves| Plot {
            title: title(what),
            x: "position, tokens".to_owned(),
            x_log2: true,
            y_ends: None,
            curves,
        };
        let perplexity =
            vec![positions("sparse", |score| Some(score.sparse)), positions("dense", |score| Some(score.dense))];
        let mut plots = vec![
            plot("Perplexity by position", perplexity),
            plot("Perplexity, sparse by dense", vec![positions("ratio", |score| Some(score.ratio))]),
            Plot {
                y_ends: Some((0.0, 1.0)),
                ..plot("Overlap of neighbouring choices", vec![positions("overlap", |score| score.overlap)])
            },
        ];
        if !self.recall.is_empty() {
            let found = |name: &str, right: fn(&Recall) -> usize| Curve {
                name: name.to_owned(),
                points: self.recall.iter().map(|r| (r.distance as f64, right(r) as f64 / r.asked as f64)).collect(),
            };
            plots.push(Plot {
                x: "tokens between fact and question".to_owned(),
                y_ends: Some((0.0, 1.0)),
                ..plot("Share of facts found", vec![found("sparse", |r| r.sparse), found("dense", |r| r.dense)])
            });
        }
        plots
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let cached = self.cached.as_ref().map(|(distance, [sparse, dense])| {
            json!({ "distance_tokens": distance, "sparse": cached_json(sparse), "dense": cached_json(dense) })
        });
        let recall = |r: &Recall| json!({ "distance_tokens": r.distance, "asked": r.asked, "sparse": r.sparse, "dense": r.dense });
        json!({
            "model": self.model,
            "architecture": self.architecture,
            "text": self.text,
            "windows": self.windows,
            "window_tokens": self.window,
            "prompt_tokens": self.prompt,
            "everything_chosen": self.everything_chosen(),
            "perplexity": score_json(&self.all),
            "perplexity_by_position": self.by_position.iter().map(score_json).collect::<Vec<_>>(),
            "asked_by": (!self.recall.is_empty()).then_some(self.asked_by),
            "needle_others": self.others,
            "needle_recall": self.recall.iter().map(recall).collect::<Vec<_>>(),
            "needle_prefix_cache": cached,
        })
    }
}

/// Of the prompts' tokens, how many came from a cache.
fn share(cached: &Cached) -> f64 {
    cached.cached_tokens as f64 / cached.prompt_tokens.max(1) as f64
}

fn cached_json(cached: &Cached) -> Value {
    json!({
        "asked": cached.asked,
        "from_cache": cached.cached,
        "cached_token_share": share(cached),
        "same_as_uncached": cached.same,
        "right": cached.right,
    })
}

fn score_json(score: &Score) -> Value {
    json!({
        "first_position": score.positions.0,
        "last_position": score.positions.1 - 1,
        "tokens": score.tokens,
        "sparse": score.sparse,
        "dense": score.dense,
        "ratio": score.ratio,
        "ratio_standard_error": score.ratio_error,
        "choice_overlap": score.overlap,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::svg;

    fn score(from: usize, to: usize, ratio: f64) -> Score {
        let overlap = Some(0.8125);
        Score {
            positions: (from, to),
            tokens: 100,
            sparse: 10.0 * ratio,
            dense: 10.0,
            ratio,
            ratio_error: Some(0.002),
            overlap,
        }
    }

    fn report() -> Report {
        let cached = |right| Cached { asked: 4, cached: 4, same: 4, right, cached_tokens: 900, prompt_tokens: 1000 };
        Report {
            model: "sample".into(),
            architecture: "deepseek_v32".into(),
            text: "held.txt".into(),
            window: 512,
            prompt: 96,
            windows: 2,
            all: score(96, 512, 0.997),
            by_position: vec![score(96, 128, 1.0), score(128, 512, 0.996)],
            others: 3,
            asked_by: "chat",
            recall: vec![Recall { distance: 128, asked: 8, sparse: 8, dense: 7 }],
            cached: Some((128, [cached(4), cached(3)])),
        }
    }

    #[test]
    fn the_table_names_every_figure() {
        let table = report().table();
        for part in [
            "sample (deepseek_v32)",
            "2 windows of 512 tokens, 96 of each given",
            "  96 to 127          100    10.000    10.000  1.0000 ± 0.0020    0.812",
            "  all                100     9.970    10.000  0.9970 ± 0.0020    0.812",
            "among 3 others",
            "  128                  8         8         7\n  Asked by chat.",
            "  dense                4           4       90 %                 4      3",
            "Share of facts found, sample",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    }

    #[test]
    fn without_needles_there_is_nothing_of_them() {
        let report = Report { recall: Vec::new(), cached: None, ..report() };
        assert!(!report.table().contains("facts") && !report.table().contains("cached"));
        assert_eq!((&report.json()["needle_prefix_cache"], &report.json()["asked_by"]), (&Value::Null, &Value::Null));
        assert_eq!(report.plots().len(), 3);
    }

    #[test]
    fn a_window_in_which_everything_is_chosen_says_so() {
        let mut report = report();
        // Equal bits; the newest position of each choice is none of the choice before, so that the overlap is below 1.
        report.all = Score { overlap: Some(0.996), ratio_error: Some(0.0), ..score(96, 512, 1.0) };
        assert!(report.table().contains("a longer --window"));
        assert_eq!(report.json()["everything_chosen"], true);
        // Equal in the mean alone.
        report.all.ratio_error = Some(0.002);
        assert!(!report.table().contains("a longer --window"));
        assert_eq!(report.json()["everything_chosen"], false);
    }

    #[test]
    fn json_has_the_numbers_and_svg_the_curves() {
        let json = report().json();
        assert_eq!(json["perplexity"]["ratio"], 0.997);
        assert_eq!(json["perplexity_by_position"][1]["first_position"], 128);
        assert_eq!((&json["asked_by"], &json["needle_recall"][0]["dense"]), (&"chat".into(), &7.into()));
        assert_eq!(json["needle_prefix_cache"]["sparse"]["cached_token_share"], 0.9);
        assert_eq!(svg(&report().plots()).matches("<polyline").count(), 6);
    }
}
