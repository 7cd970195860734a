//! What happened to a cluster's leadership, as its processes logged it, and a small checker of it.

use std::collections::BTreeMap;

use crate::process::Process;

/// One event, in the order of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A coordinator began to lead.
    Leads {
        /// Which process.
        member: String,
        /// Its term.
        term: u64,
    },
    /// A worker obeyed a command.
    Obeyed {
        /// Which process.
        worker: String,
        /// Of which term.
        term: u64,
    },
}

/// The events of a cluster, those of one process in their order.
#[derive(Clone, Debug, Default)]
pub struct History(pub Vec<Event>);

/// What a coordinator logs when it begins to lead.
const LEADS: &str = "this coordinator leads";
/// What a worker logs when it obeys.
const OBEYS: &str = "the coordinator drains this worker";
/// What a worker logs with the term of a leader that it registers with.
const REGISTERS: &str = " registered coordinator=";

fn terms<'a>(log: &'a str, says: &'a str) -> impl Iterator<Item = u64> + 'a {
    log.lines().filter(move |line| line.contains(says)).filter_map(|line| {
        let after = line.split("term=").nth(1)?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

impl History {
    /// Adds what a coordinator logged.
    pub fn coordinator(&mut self, member: &str, process: &Process) {
        let leads = |term| Event::Leads { member: member.to_owned(), term };
        self.0.extend(terms(&process.log(), LEADS).map(leads));
    }

    /// Adds what a worker logged.
    pub fn worker(&mut self, worker: &str, process: &Process) {
        let obeyed = |term| Event::Obeyed { worker: worker.to_owned(), term };
        self.0.extend(terms(&process.log(), OBEYS).map(obeyed));
    }

    /// Terms that were led.
    pub fn terms(&self) -> Vec<u64> {
        let mut terms: Vec<u64> = self.0.iter().filter_map(led).map(|(_, term)| term).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    }

    /// Everything that must not be: two leaders of a term, a leader whose terms do not grow, a command of a term that
    /// nobody led, or of an older one than the worker has obeyed before.
    pub fn violations(&self) -> Vec<String> {
        let (mut leader_of, mut last) = (BTreeMap::new(), BTreeMap::new());
        let mut wrong = Vec::new();
        for (member, term) in self.0.iter().filter_map(led) {
            let other = leader_of.insert(term, member);
            wrong.extend(other.map(|other| format!("term {term} was led by {other} and by {member}")));
            let before = last.insert(member, term).filter(|before| *before >= term);
            wrong.extend(before.map(|before| format!("{member} led term {before} before term {term}")));
        }
        let mut obeyed = BTreeMap::new();
        for event in &self.0 {
            let Event::Obeyed { worker, term } = event else { continue };
            if !leader_of.contains_key(term) {
                wrong.push(format!("{worker} obeyed term {term}, which nobody led"));
            }
            let before = obeyed.insert(worker, *term).filter(|before| before > term);
            wrong.extend(before.map(|before| format!("{worker} obeyed term {term} after term {before}")));
        }
        wrong
    }
}

fn led(event: &Event) -> Option<(&String, u64)> {
    match event {
        Event::Leads { member, term } => Some((member, *term)),
        Event::Obeyed { .. } => None,
    }
}

/// Terms of the leaders that a worker registered with, in order.
pub fn registered(worker: &Process) -> Vec<u64> {
    terms(&worker.log(), REGISTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(member: &str, term: u64) -> Event {
        Event::Leads { member: member.into(), term }
    }

    fn obeyed(worker: &str, term: u64) -> Event {
        Event::Obeyed { worker: worker.into(), term }
    }

    #[test]
    fn a_history_as_it_should_be_has_no_violations() {
        let history = History(vec![leads("a", 3), leads("a", 9), leads("b", 5), obeyed("w", 5), obeyed("w", 9)]);
        assert_eq!(history.violations(), [""; 0]);
        assert_eq!(history.terms(), [3, 5, 9]);
    }

    #[test]
    fn every_violation_is_found() {
        for (events, says) in [
            (vec![leads("a", 3), leads("b", 3)], "term 3 was led by a and by b"),
            (vec![leads("a", 3), leads("a", 2)], "a led term 3 before term 2"),
            (vec![leads("a", 3), obeyed("w", 4)], "w obeyed term 4, which nobody led"),
            (vec![leads("a", 3), leads("b", 5), obeyed("w", 5), obeyed("w", 3)], "w obeyed term 3 after term 5"),
        ] {
            assert_eq!(History(events).violations(), [says]);
        }
    }

    #[test]
    fn terms_are_read_from_the_lines_that_tell_of_them() {
        let log = "t INFO x: this coordinator leads term=7 address=a:1\nt INFO x: following the leader term=9\n";
        assert_eq!(terms(log, LEADS).collect::<Vec<_>>(), [7]);
    }
}
