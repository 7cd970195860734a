//! Finding the coordinator that leads, for those that talk to it.
//!
//! Every coordinator of the list is asked who leads, and tells again after every change: so one that hangs hides
//! nothing, and a leader that is not in the list is found, too. The latest term wins. While nobody knows better, the
//! last leader is kept, or the first of the list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use crate::grpc::{ChannelError, channel};
use crate::tasks::Tasks;
use crate::tls::Tls;

/// Pauses before a coordinator is asked again whose answer broke off.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A coordinator to talk to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address, host:port.
    pub address: Arc<str>,
    /// The connection.
    pub channel: Channel,
}

/// The coordinator that leads, as far as is known. A cheap handle.
#[derive(Clone, Debug)]
pub struct Leader {
    target: watch::Receiver<Target>,
    listed: Arc<str>,
}

/// What one coordinator says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Leads { term: u64 },
    Follows { term: u64, address: String },
}

/// What all of them say, by the address they are asked at.
struct Words {
    said: Mutex<BTreeMap<String, Word>>,
    target: watch::Sender<Target>,
    tls: Option<Tls>,
}

impl Leader {
    /// Starts to ask the coordinators of a list (`HOST:PORT,HOST:PORT`).
    ///
    /// # Errors
    /// When one of them is no address.
    pub fn find(list: &str, tls: Option<&Tls>, tasks: &Tasks) -> Result<Self, ChannelError> {
        let dial = |address: &str| Ok(Target { address: address.into(), channel: channel(address, tls)? });
        let listed = list.split(',').map(|address| dial(address.trim())).collect::<Result<Vec<_>, ChannelError>>()?;
        let problem = || ChannelError { address: list.to_owned(), problem: "it is empty".to_owned() };
        let first = listed.first().ok_or_else(problem)?.clone();
        let (target, found) = watch::channel(first);
        let words = Arc::new(Words { said: Mutex::default(), target, tls: tls.cloned() });
        for coordinator in listed {
            tasks.spawn_service("leader", words.clone().ask_for_ever(coordinator));
        }
        Ok(Self { target: found, listed: list.into() })
    }

    /// Whom to talk to now.
    pub fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// The list that it is found through.
    pub fn listed(&self) -> &str {
        &self.listed
    }

    /// Resolves when another one than `target` is to be talked to.
    pub async fn other_than(&mut self, target: &Target) {
        if self.target.wait_for(|now| now.address != target.address).await.is_err() {
            // The part ends; nobody else will ever be found.
            std::future::pending().await
        }
    }
}

impl Words {
    async fn ask_for_ever(self: Arc<Self>, coordinator: Target) {
        let mut pause = PAUSE_MIN;
        loop {
            let mut client = CoordinatorClient::new(coordinator.channel.clone());
            match client.leader(w::LeaderRequest {}).await {
                Ok(views) => {
                    let mut views = views.into_inner();
                    while let Ok(Some(view)) = views.message().await {
                        pause = PAUSE_MIN;
                        self.hear(&coordinator.address, word(view));
                    }
                    self.hear(&coordinator.address, None);
                }
                // Of a release that knows no standbys.
                Err(status) if status.code() == Code::Unimplemented => {
                    self.hear(&coordinator.address, Some(Word::Leads { term: 0 }));
                }
                Err(_) => self.hear(&coordinator.address, None),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn hear(&self, from: &str, word: Option<Word>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match word {
            Some(word) => _ = said.insert(from.to_owned(), word),
            None => _ = said.remove(from),
        }
        let Some(address) = choose(&said) else { return };
        if *self.target.borrow().address == *address {
            return;
        }
        match channel(&address, self.tls.as_ref()) {
            Ok(channel) => {
                tracing::info!(leader = %address, "another coordinator leads");
                self.target.send_replace(Target { address: address.into(), channel });
            }
            Err(error) => tracing::warn!(%error, "the leader's address cannot be used"),
        }
    }
}

fn word(view: w::LeaderView) -> Option<Word> {
    let w::LeaderView { leads, term, address } = view;
    match leads {
        true => Some(Word::Leads { term }),
        false => (!address.is_empty()).then_some(Word::Follows { term, address }),
    }
}

/// The address of the latest term's leader; as it is listed, if it is, since the list's addresses can be dialled.
fn choose(said: &BTreeMap<String, Word>) -> Option<String> {
    let rank = |word: &Word| match word {
        Word::Leads { term } => (*term, true),
        Word::Follows { term, .. } => (*term, false),
    };
    said.iter().max_by_key(|(_, word)| rank(word)).map(|(from, word)| match word {
        Word::Leads { .. } => from.clone(),
        Word::Follows { address, .. } => address.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(words: &[(&str, Word)]) -> Option<String> {
        choose(&words.iter().map(|(from, word)| ((*from).to_owned(), word.clone())).collect())
    }

    fn follows(term: u64, address: &str) -> Word {
        Word::Follows { term, address: address.into() }
    }

    #[test]
    fn the_latest_term_wins_and_the_listed_address_is_dialled() {
        assert_eq!(chosen(&[]), None);
        let old = Word::Leads { term: 5 };
        assert_eq!(chosen(&[("a", old.clone()), ("b", follows(5, "a-inside"))]).unwrap(), "a");
        // It hangs, and has not heard of its successor.
        assert_eq!(chosen(&[("a", old.clone()), ("b", follows(9, "c"))]).unwrap(), "c");
        assert_eq!(chosen(&[("a", old), ("b", follows(9, "c-inside")), ("c", Word::Leads { term: 9 })]).unwrap(), "c");
    }

    #[test]
    fn what_nobody_knows_is_no_word() {
        assert_eq!(word(w::LeaderView { leads: false, term: 0, address: String::new() }), None);
        let leads = w::LeaderView { leads: true, term: 3, address: "x:1".into() };
        assert_eq!(word(leads), Some(Word::Leads { term: 3 }));
    }

    #[tokio::test]
    async fn a_list_with_a_bad_address_is_refused() {
        for list in ["", "a:1,,b:2", "a:1,b"] {
            assert!(Leader::find(list, None, &Tasks::new()).is_err(), "{list:?}");
        }
        let leader = Leader::find("127.0.0.1:1, 127.0.0.1:2", None, &Tasks::new()).unwrap();
        assert_eq!(&*leader.target().address, "127.0.0.1:1");
    }
}
