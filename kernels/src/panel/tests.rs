//! Every tile shape of every path against sums one by one, to the bit, with slices that end where the tile does, so
//! that the address sanitizer (command in `lib.rs`) sees any access beyond.

use super::*;
use crate::number::f32_to_bf16;
use crate::testing::{Random, bits, dot2};

/// A tile on the heap: [rows, k] activations, [panels × 16, k] weights.
struct Case {
    encoding: Encoding,
    pairs: bool,
    rows: usize,
    panels: usize,
    steps: usize,
    first_steps: usize,
    block_steps: usize,
    x: Vec<f32>,
    lines: Vec<Line>,
    scale: Vec<f32>,
    acc: Vec<f32>,
}

impl Case {
    fn new(encoding: Encoding, pairs: bool, [rows, panels, steps]: [usize; 3], random: &mut Random) -> Self {
        let (first_steps, block_steps) = (steps.min(1 + random.below(5)), 1 + random.below(7));
        let blocks = 1 + (steps - first_steps).div_ceil(block_steps);
        let words = if pairs { encoding.line_k() / 2 } else { encoding.line_k() };
        let scaled = encoding == Encoding::E4m3;
        let x = (0..rows * steps * words).map(|_| match pairs {
            true => f32::from_bits(u32::from(bf16(random)) << 16 | u32::from(bf16(random))),
            false => random.number(),
        });
        Self {
            encoding,
            pairs,
            rows,
            panels,
            steps,
            first_steps,
            block_steps,
            x: x.collect(),
            lines: (0..panels * steps).map(|_| line(encoding, random)).collect(),
            scale: random.numbers(if scaled { panels * blocks * PANEL } else { 0 }),
            acc: random.numbers(rows * panels * PANEL),
        }
    }

    fn run(&mut self, path: Path) {
        let blocks = 1 + (self.steps - self.first_steps).div_ceil(self.block_steps);
        let tile = Tile {
            encoding: self.encoding,
            x: &self.x,
            pairs: self.pairs,
            rows: self.rows,
            lines: &self.lines,
            panel_lines: self.steps,
            panels: self.panels,
            steps: self.steps,
            first_steps: self.first_steps,
            block_steps: self.block_steps,
            scale: &self.scale,
            scale_stride: blocks * PANEL,
            acc: &mut self.acc,
            acc_stride: self.panels * PANEL,
        };
        run(path, tile);
    }

    /// The sum of one row and output by the rule at the head of the parent module.
    fn want(&self, path: Path, row: usize, output: usize) -> f32 {
        let (panel, column) = (output / PANEL, output % PANEL);
        let blocks = 1 + (self.steps - self.first_steps).div_ceil(self.block_steps);
        let line_k = self.encoding.line_k();
        let words = if self.pairs { line_k / 2 } else { line_k };
        let mut sum = self.acc[row * self.panels * PANEL + output];
        let (mut block_sum, mut block) = (0.0, 0);
        for step in 0..self.steps {
            let line = &self.lines[panel * self.steps + step];
            let last = step + 1 == self.first_steps + block * self.block_steps || step + 1 == self.steps;
            let scale = self.scale.get((panel * blocks + block) * PANEL + column).copied().unwrap_or(1.0);
            let x = |word: usize| self.x[(step * words + word) * self.rows + row];
            if self.pairs {
                for pair in 0..words {
                    let w = [0, 1].map(|i| self.encoding.value(line, column, 2 * pair + i));
                    let to = if self.encoding == Encoding::E4m3 { &mut block_sum } else { &mut sum };
                    *to = dot2(*to, halves(x(pair)), w);
                }
                if last && self.encoding == Encoding::E4m3 {
                    sum = f32::mul_add(std::mem::take(&mut block_sum), scale, sum);
                }
            } else {
                for k in 0..line_k {
                    let w = self.encoding.value(line, column, k) * scale;
                    sum = if path == Path::Portable { sum + x(k) * w } else { x(k).mul_add(w, sum) };
                }
            }
            block += usize::from(last);
        }
        sum
    }
}

/// The two bf16 of a word.
fn halves(word: f32) -> [f32; 2] {
    [word.to_bits() as u16, (word.to_bits() >> 16) as u16].map(bf16_to_f32)
}

/// Also subnormal, for which vdpbf16ps takes zero.
fn bf16(random: &mut Random) -> u16 {
    if random.below(16) == 0 { random.word() as u16 & 0x807f } else { f32_to_bf16(random.number()) }
}

fn line(encoding: Encoding, random: &mut Random) -> Line {
    let mut line = Line::ZERO;
    for column in 0..PANEL {
        match encoding {
            Encoding::F32 => line.0[column] = random.number().to_bits(),
            Encoding::Bf16 => line.0[column] = u32::from(bf16(random)) << 16 | u32::from(bf16(random)),
            Encoding::E4m3 => (0..4).for_each(|k| {
                let code = random.word() as u8;
                line.put_e4m3(column, k, if code & 0x7f == 0x7f { 0x7e } else { code });
            }),
        }
    }
    line
}

fn kinds() -> Vec<(Path, Encoding, bool)> {
    let mut kinds = Vec::new();
    for path in Path::available() {
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::E4m3] {
            kinds.push((path, encoding, false));
            if takes_pairs(path, encoding) {
                kinds.push((path, encoding, true));
            }
        }
    }
    kinds
}

#[test]
fn every_tile_is_one_chain_of_sums_to_the_bit() {
    for (path, encoding, pairs) in kinds() {
        let mut random = Random::new(3);
        for rows in 1..=TILE_ROWS {
            for panels in [1, 2, 3, 4, 9] {
                for steps in [1, 2, 31] {
                    let mut case = Case::new(encoding, pairs, [rows, panels, steps], &mut random);
                    let want: Vec<f32> = (0..rows)
                        .flat_map(|r| (0..panels * PANEL).map(move |o| (r, o)))
                        .map(|(r, o)| case.want(path, r, o))
                        .collect();
                    case.run(path);
                    assert_eq!(bits(&case.acc), bits(&want), "{path} {encoding:?} {pairs} {rows} {panels} {steps}");
                }
            }
        }
    }
}

#[test]
fn every_e4m3_code_is_its_value_on_every_path() {
    let codes: Vec<u8> = (0..=255u8).filter(|c| c & 0x7f != 0x7f).chain([0, 0]).collect();
    for (path, encoding, pairs) in kinds().into_iter().filter(|(_, e, _)| *e == Encoding::E4m3) {
        for scale in [1.0, 0.3, 1e-3, 2.0f32.powi(-130), -1.0] {
            for codes in codes.chunks_exact(PANEL) {
                for k in 0..4 {
                    let mut line = Line::ZERO;
                    codes.iter().enumerate().for_each(|(column, &code)| line.put_e4m3(column, k, code));
                    let mut x = [0.0; 4];
                    if pairs {
                        x[k / 2] = f32::from_bits(0x3f80 << (16 * (k % 2)));
                    } else {
                        x[k] = 1.0;
                    }
                    let mut acc = vec![0.0; PANEL];
                    run(
                        path,
                        Tile {
                            encoding,
                            x: &x,
                            pairs,
                            rows: 1,
                            lines: &[line],
                            panel_lines: 1,
                            panels: 1,
                            steps: 1,
                            first_steps: 1,
                            block_steps: 1,
                            scale: &[scale; PANEL],
                            scale_stride: PANEL,
                            acc: &mut acc,
                            acc_stride: PANEL,
                        },
                    );
                    let want: Vec<f32> = codes.iter().map(|&c| 0.0 + e4m3_to_f32(c) * scale).collect();
                    assert_eq!(bits(&acc), bits(&want), "{path} × {scale}");
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_none_stay_so() {
    for (path, encoding, pairs) in kinds() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut case = Case::new(encoding, pairs, [3, 2, 5], &mut Random::new(4));
            let words = case.x.len() / 3;
            case.x[(words - 1) * 3 + 1] = if pairs { f32::from_bits(bad.to_bits() >> 16) } else { bad };
            case.lines.iter_mut().for_each(|l| l.0.iter_mut().for_each(|w| *w = if *w == 0 { 1 } else { *w }));
            case.run(path);
            let row = |r: usize| &case.acc[r * 2 * PANEL..(r + 1) * 2 * PANEL];
            assert!(row(1).iter().any(|v| !v.is_finite()), "{path} {encoding:?} {pairs}");
            assert!(row(0).iter().chain(row(2)).all(|v| v.is_finite()), "{path} {encoding:?} {pairs}");
        }
    }
}

#[test]
#[should_panic(expected = "lies within its slices")]
fn a_tile_beyond_its_slices_is_refused() {
    let mut case = Case::new(Encoding::F32, false, [2, 1, 4], &mut Random::new(5));
    case.lines.pop();
    case.run(Path::detect());
}

#[test]
#[should_panic(expected = "a path without pairs is given none")]
fn pairs_are_refused_where_there_are_none() {
    Case::new(Encoding::Bf16, true, [1, 1, 1], &mut Random::new(6)).run(Path::Portable);
}
