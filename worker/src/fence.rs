//! Which leader's commands are obeyed: a command that changes this worker's state must come from the latest leader that
//! it has heard of. Terms only grow, so that a leader that was deposed without noticing is told apart.

use hadal_types::Term;

/// The highest term seen.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    highest: Option<Term>,
}

/// A command of a deposed leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command of term {} came after one of term {}", term.0, highest.0)]
pub(crate) struct Deposed {
    pub(crate) term: Term,
    pub(crate) highest: Term,
}

impl Fence {
    /// Takes note of a leader.
    pub(crate) fn see(&mut self, term: Term) {
        self.highest = self.highest.max(Some(term));
    }

    /// Whether a command of this term is to be obeyed; from then on none of an older one is.
    pub(crate) fn admit(&mut self, term: Term) -> Result<(), Deposed> {
        match self.highest {
            Some(highest) if term < highest => Err(Deposed { term, highest }),
            _ => {
                self.highest = Some(term);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_older_terms_are_refused_with_both() {
        let mut fence = Fence::default();
        assert_eq!(fence.admit(Term(3)), Ok(()));
        fence.see(Term(7));
        fence.see(Term(5));
        assert_eq!(fence.admit(Term(6)), Err(Deposed { term: Term(6), highest: Term(7) }));
        assert_eq!(fence.admit(Term(7)), Ok(()));
        assert_eq!(fence.admit(Term(9)), Ok(()));
        let error = fence.admit(Term(7)).unwrap_err().to_string();
        assert!(error.contains("term 7") && error.contains("term 9"), "{error}");
    }
}
