//! What two scorings of the same tokens say: perplexities, their ratio and its error, by position.
//!
//! With n_i the negative log-likelihood of token i in nats, sparse and dense, and d_i = sparse n_i - dense n_i:
//! perplexity = exp(mean n); ratio = exp(mean d); its standard error = ratio * sd(d) / sqrt(count), by the delta method.
//! Pairing by token takes out what both find hard, which is nearly all of the variance.

/// One token of the text, scored both ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token {
    /// Tokens before it.
    pub(super) position: usize,
    /// Negative log-likelihood with sparse attention, in nats.
    pub(super) sparse: f64,
    /// The same with dense attention.
    pub(super) dense: f64,
    /// Share of the positions chosen for it that were also chosen for the token before.
    pub(super) overlap: Option<f64>,
}

/// Tokens of some positions, summed up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Score {
    /// The first position, and the one after the last.
    pub(super) positions: (usize, usize),
    /// How many tokens were scored.
    pub(super) tokens: usize,
    /// Perplexity with sparse attention.
    pub(super) sparse: f64,
    /// Perplexity with dense attention.
    pub(super) dense: f64,
    /// Sparse perplexity by dense.
    pub(super) ratio: f64,
    /// Its standard error; none of a single token.
    pub(super) ratio_error: Option<f64>,
    /// Mean overlap of choices; none where none was told.
    pub(super) overlap: Option<f64>,
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// All of the tokens together; none of no tokens.
pub(super) fn all(tokens: &[Token]) -> Option<Score> {
    let difference = |token: &Token| token.sparse - token.dense;
    let middle = mean(tokens.iter().map(difference))?;
    let count = tokens.len() as f64;
    let squares: f64 = tokens.iter().map(|token| (difference(token) - middle).powi(2)).sum();
    let ratio = middle.exp();
    let positions = tokens.iter().map(|token| token.position);
    Some(Score {
        positions: (positions.clone().min()?, positions.max()? + 1),
        tokens: tokens.len(),
        sparse: mean(tokens.iter().map(|token| token.sparse))?.exp(),
        dense: mean(tokens.iter().map(|token| token.dense))?.exp(),
        ratio,
        ratio_error: (tokens.len() > 1).then(|| ratio * (squares / (count - 1.0) / count).sqrt()),
        overlap: mean(tokens.iter().filter_map(|token| token.overlap)),
    })
}

/// By position, in steps of half a power of two.
pub(super) fn by_position(tokens: &[Token]) -> Vec<Score> {
    let bucket = |position: usize| (2.0 * (position.max(1) as f64).log2()).floor() as u32;
    let mut buckets = std::collections::BTreeMap::<u32, Vec<Token>>::new();
    for token in tokens {
        buckets.entry(bucket(token.position)).or_default().push(*token);
    }
    buckets.values().filter_map(|tokens| all(tokens)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(position: usize, sparse: f64, dense: f64) -> Token {
        Token { position, sparse, dense, overlap: None }
    }

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let score = all(&[token(4, 2f64.ln(), 2f64.ln()), token(5, 8f64.ln(), 2f64.ln())]).unwrap();
        assert!((score.sparse - 4.0).abs() < 1e-12 && (score.dense - 2.0).abs() < 1e-12);
        assert!((score.ratio - 2.0).abs() < 1e-12);
        assert_eq!((score.positions, score.tokens, score.overlap), ((4, 6), 2, None));
    }

    #[test]
    fn the_error_is_that_of_the_paired_differences() {
        // Differences 0.1 and 0.3: mean 0.2, sd 0.1 * sqrt 2, by sqrt 2.
        let score = all(&[token(4, 5.1, 5.0), token(5, 1.3, 1.0)]).unwrap();
        assert!((score.ratio_error.unwrap() - 0.2f64.exp() * 0.1).abs() < 1e-12);
        assert_eq!(all(&[token(4, 1.0, 1.0)]).unwrap().ratio_error, None);
        // What is equal has no error, however much the tokens differ among themselves.
        let equal = all(&[token(4, 9.0, 9.0), token(5, 1.0, 1.0)]).unwrap();
        assert_eq!((equal.ratio, equal.ratio_error), (1.0, Some(0.0)));
        assert_eq!(all(&[]), None);
    }

    #[test]
    fn positions_go_by_half_powers_of_two() {
        let tokens: Vec<_> = (96..1024).map(|position| token(position, 1.0, 1.0)).collect();
        let positions: Vec<_> = by_position(&tokens).iter().map(|score| score.positions).collect();
        assert_eq!(positions, [(96, 128), (128, 182), (182, 256), (256, 363), (363, 512), (512, 725), (725, 1024)]);
        assert_eq!(by_position(&tokens).iter().map(|score| score.tokens).sum::<usize>(), 1024 - 96);
    }

    #[test]
    fn the_overlap_is_of_the_tokens_that_have_one() {
        let with = |overlap| Token { overlap, ..token(4, 1.0, 1.0) };
        assert_eq!(all(&[with(None), with(Some(0.5)), with(Some(1.0))]).unwrap().overlap, Some(0.75));
    }
}
