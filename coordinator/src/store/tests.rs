//! The contract of every store, and what is etcd's alone.

use hadal_tests::etcd::Etcd as Process;

use super::etcd::pb;
use super::*;

/// The shortest lease that etcd gives.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// Every wait of a test ends: what takes so long will never come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it came in time")
}

async fn etcd(count: usize) -> (Process, Etcd) {
    let process = Process::start(count).await.unwrap();
    let store = Etcd::new(&process.addresses(), "test", None).unwrap();
    (process, store)
}

async fn lease(store: &dyn ClusterStore, ttl: Duration) -> StoreLease {
    store.grant(ttl).await.unwrap().0
}

async fn won(store: &dyn ClusterStore, lease: StoreLease, address: &str) -> Term {
    match store.campaign(lease, address).await.unwrap() {
        Campaign::Won(term) => term,
        Campaign::Held(seen) => panic!("held: {seen:?}"),
    }
}

/// Reads on until the watch shows the wanted term, or nobody.
async fn until(watch: &mut Box<dyn Watch>, term: Option<Term>) -> Seen {
    loop {
        let seen = soon(watch.next()).await.unwrap();
        if seen.leader.as_ref().map(|leader| leader.term) == term {
            return seen;
        }
    }
}

/// What every store must do.
async fn contract(store: &dyn ClusterStore) {
    let mut watch = store.watch().await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().leader, None);

    // One wins; the same lease wins again; another learns who it is.
    let (a, b) = (lease(store, LONG).await, lease(store, LONG).await);
    let first = won(store, a, "a:1").await;
    assert_eq!(won(store, a, "a:1").await, first);
    let Campaign::Held(held) = store.campaign(b, "b:1").await.unwrap() else { panic!("two leaders") };
    let leader = held.leader.unwrap();
    assert_eq!((leader.address.as_str(), leader.term, leader.lease), ("a:1", first, a));
    assert!(held.revision >= first.0);
    assert_eq!(until(&mut watch, Some(first)).await.leader.unwrap(), leader);

    // A leader of another term is not unseated; this one is, once, and the next term is larger.
    let kept = store.unseat(Term(first.0 + 1)).await.unwrap();
    assert_eq!(kept.leader.unwrap().term, first);
    let gone = store.unseat(first).await.unwrap();
    assert_eq!(gone.leader, None);
    assert!(gone.revision > first.0);
    let second = won(store, b, "b:1").await;
    assert!(second > first);
    assert_eq!(store.unseat(first).await.unwrap().leader.unwrap().term, second);
    assert_eq!(until(&mut watch, Some(second)).await.leader.unwrap().address, "b:1");

    // Who gives its lease back leads no more, and has no lease; doing so twice is no error.
    store.revoke(b).await.unwrap();
    store.revoke(b).await.unwrap();
    assert!(until(&mut watch, None).await.revision > second.0);
    assert_eq!(store.renew(b).await, Err(StoreError::LeaseGone));
    assert_eq!(store.campaign(b, "b:1").await, Err(StoreError::LeaseGone));
    assert!(store.renew(a).await.unwrap() >= LONG);

    // A lease that nobody renews ends, and takes the key with it.
    let (c, ttl) = store.grant(SHORT).await.unwrap();
    assert!(ttl >= SHORT);
    let third = won(store, c, "c:1").await;
    until(&mut watch, Some(third)).await;
    until(&mut watch, None).await;
    assert_eq!(store.renew(c).await, Err(StoreError::LeaseGone));

    // A watch that begins now knows what is now.
    let fourth = won(store, a, "a:2").await;
    let mut late = store.watch().await.unwrap();
    assert_eq!(soon(late.next()).await.unwrap().leader.unwrap().term, fourth);
    store.revoke(a).await.unwrap();
}

/// Many candidates at once: one wins.
async fn one_of_many(store: impl ClusterStore + Clone + 'static) {
    let mut candidates = tokio::task::JoinSet::new();
    for i in 0..8 {
        let store = store.clone();
        candidates.spawn(async move {
            let lease = lease(&store, LONG).await;
            store.campaign(lease, &format!("c{i}:1")).await.unwrap()
        });
    }
    let all = candidates.join_all().await;
    let winners = all.iter().filter_map(|c| if let Campaign::Won(term) = c { Some(*term) } else { None });
    let winners: Vec<Term> = winners.collect();
    assert_eq!(winners.len(), 1, "{all:?}");
    let agrees = |c: &Campaign| match c {
        Campaign::Won(_) => true,
        Campaign::Held(seen) => seen.leader.as_ref().is_some_and(|leader| leader.term == winners[0]),
    };
    assert!(all.iter().all(agrees), "{all:?}");
    store.unseat(winners[0]).await.unwrap();
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&Memory::new()).await;
    one_of_many(Memory::new()).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let (_process, store) = etcd(1).await;
    contract(&store).await;
    one_of_many(store).await;
}

#[tokio::test]
async fn two_prefixes_are_two_clusters() {
    let (process, store) = etcd(1).await;
    let other = Etcd::new(&process.addresses(), "other", None).unwrap();
    let first = lease(&store, LONG).await;
    let term = won(&store, first, "a:1").await;
    let second = lease(&other, LONG).await;
    assert!(won(&other, second, "b:1").await > term);
}

#[tokio::test]
async fn a_watch_outlives_compaction() {
    let (_process, store) = etcd(1).await;
    let a = lease(&store, LONG).await;
    let old = Seen { revision: 1, leader: None };
    let mut term = won(&store, a, "a:1").await;
    for _ in 0..3 {
        store.unseat(term).await.unwrap();
        term = won(&store, a, "a:1").await;
    }
    let compact = pb::CompactionRequest { revision: term.0 as i64 };
    store.ask(|member| async move { pb::kv_client::KvClient::new(member).compact(compact).await }).await.unwrap();
    // What comes after the first revision is forgotten; what there is now is told in its place.
    let mut watch: Box<dyn Watch> =
        Box::new(super::etcd::watch::Changes::after(store.clone(), old.clone()).await.unwrap());
    assert_eq!(soon(watch.next()).await.unwrap(), old);
    assert_eq!(until(&mut watch, Some(term)).await.leader.unwrap().address, "a:1");
    store.unseat(term).await.unwrap();
    until(&mut watch, None).await;
}

#[tokio::test]
async fn foreign_and_damaged_content_is_named_with_what_to_do() {
    let (_process, store) = etcd(1).await;
    let a = lease(&store, LONG).await;
    let good = br#"{"hadal":{"coordinator":"x:1"}}"#;
    let cases: [(&[u8], i64, &str); 4] = [
        (b"\xff\xfe", a.0, "expected value"),
        (b"{\"leader\":\"somebody\"}", a.0, "names no coordinator"),
        (b"{\"hadal\":{\"coordinator\":7}}", a.0, "names no coordinator"),
        (good, 0, "no lease"),
    ];
    for (value, lease, problem) in cases {
        let put = pb::PutRequest { key: b"test/leader".to_vec(), value: value.to_vec(), lease };
        let put = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        store.transact(pb::TxnRequest { success: vec![put], ..Default::default() }).await.unwrap();
        let b = self::lease(&store, LONG).await;
        let error = store.campaign(b, "b:1").await.unwrap_err().to_string();
        for says in ["test/leader", problem, "etcdctl del", "--store etcd://"] {
            assert!(error.contains(says), "{error}");
        }
        assert!(matches!(store.watch().await.err(), Some(StoreError::Foreign { .. })));
    }
}

#[tokio::test]
async fn what_is_no_etcd_is_an_error_and_not_a_hang() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let members = [silent.local_addr().unwrap().to_string(), closed];
    let store = Etcd::new(&members, "test", None).unwrap();
    let error = soon(store.grant(LONG)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn every_member_is_asked_again_after_all_have_failed() {
    let mut process = Process::start(1).await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let store = Etcd::new(&[closed, process.addresses().remove(0)], "test", None).unwrap();
    lease(&store, LONG).await;
    process.kill(0).await.unwrap();
    // Several turns over both.
    for _ in 0..5 {
        assert!(matches!(soon(store.grant(LONG)).await, Err(StoreError::Unavailable(_))));
    }
    process.restart(0).await.unwrap();
    soon(async { while store.grant(LONG).await.is_err() {} }).await;
}

#[tokio::test]
async fn three_members_lose_one_after_another_and_what_was_agreed_stays() {
    let (mut process, store) = etcd(3).await;
    let a = lease(&store, LONG).await;
    let term = won(&store, a, "a:1").await;
    for member in 0..3 {
        process.kill(member).await.unwrap();
        // Whoever led them may be gone: until another one does, the store cannot be reached.
        soon(async { while !matches!(store.campaign(a, "a:1").await, Ok(Campaign::Won(again)) if again == term) {} })
            .await;
        assert!(soon(store.renew(a)).await.is_ok());
        process.restart(member).await.unwrap();
    }
    // All of them away and back: the lease is given its time anew.
    for member in 0..3 {
        process.kill(member).await.unwrap();
    }
    assert!(matches!(soon(store.renew(a)).await, Err(StoreError::Unavailable(_))));
    process.restart_all().await.unwrap();
    soon(async { while store.renew(a).await.is_err() {} }).await;
    assert_eq!(won(&store, a, "a:1").await, term);
}
