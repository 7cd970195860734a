//! Metrics: registered from the [`catalogue`], rendered for Prometheus, served over HTTP beside `/health` and `/ready`.

pub mod catalogue;
mod http;

use std::collections::BTreeMap;
use std::collections::HashMap;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

pub use catalogue::{Desc, Kind};
pub use http::{Probe, Status, routes, serve};

/// A metric that cannot be registered; the catalogue's tests make that a fault of the program.
#[derive(Debug, thiserror::Error)]
#[error("metric {name}: {problem}")]
pub struct MetricError {
    /// Its name.
    pub name: &'static str,
    /// Why not.
    pub problem: String,
}

/// Where a part counts: a registry, and labels that all its metrics bear (such as the worker's id).
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    labels: HashMap<String, String>,
    beside: Vec<Metrics>,
}

impl Metrics {
    /// No metrics yet; every one will bear `labels`.
    pub fn new(labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { registry: Registry::new(), labels, beside: Vec::new() }
    }

    /// Shows the metrics of `others` wherever these are shown: the router of an embedded cluster shows every part's.
    pub fn beside(mut self, others: impl IntoIterator<Item = Metrics>) -> Self {
        self.beside.extend(others);
        self
    }

    fn gather(&self) -> Vec<MetricFamily> {
        let mut families = self.registry.gather();
        families.extend(self.beside.iter().flat_map(Metrics::gather));
        families
    }

    /// Registers a counter; once per metric. Like every metric without labels, it shows 0 before anything happened.
    ///
    /// # Errors
    /// When it is registered already, or is no counter.
    pub fn counter(&self, desc: &'static Desc) -> Result<IntCounterVec, MetricError> {
        let counter = self.register(desc, Kind::Counter, || IntCounterVec::new(self.options(desc), desc.labels))?;
        if desc.labels.is_empty() {
            counter.with_label_values::<&str>(&[]);
        }
        Ok(counter)
    }

    /// Registers a gauge; once per metric.
    ///
    /// # Errors
    /// When it is registered already, or is no gauge.
    pub fn gauge(&self, desc: &'static Desc) -> Result<IntGaugeVec, MetricError> {
        let gauge = self.register(desc, Kind::Gauge, || IntGaugeVec::new(self.options(desc), desc.labels))?;
        if desc.labels.is_empty() {
            gauge.with_label_values::<&str>(&[]);
        }
        Ok(gauge)
    }

    /// Registers a histogram; once per metric.
    ///
    /// # Errors
    /// When it is registered already, or is no histogram.
    pub fn histogram(&self, desc: &'static Desc) -> Result<HistogramVec, MetricError> {
        let Kind::Histogram(buckets) = desc.kind else {
            return Err(MetricError { name: desc.name, problem: "it is no histogram".to_owned() });
        };
        let options = || HistogramOpts { common_opts: self.options(desc), buckets: buckets.to_vec() };
        let histogram = self.register(desc, desc.kind, || HistogramVec::new(options(), desc.labels))?;
        if desc.labels.is_empty() {
            histogram.with_label_values::<&str>(&[]);
        }
        Ok(histogram)
    }

    fn options(&self, desc: &Desc) -> Opts {
        Opts::new(desc.name, desc.help).const_labels(self.labels.clone())
    }

    fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        desc: &'static Desc,
        kind: Kind,
        make: impl FnOnce() -> prometheus::Result<C>,
    ) -> Result<C, MetricError> {
        let failed = |problem: String| MetricError { name: desc.name, problem };
        if kind != desc.kind {
            return Err(failed(format!("it is a {}", desc.kind.name())));
        }
        let collector = make().map_err(|e| failed(e.to_string()))?;
        self.registry.register(Box::new(collector.clone())).map_err(|e| failed(e.to_string()))?;
        Ok(collector)
    }
}

/// All metrics in Prometheus's text format; families of one name, which the workers of an embedded cluster have, are
/// merged into one.
pub fn render<'a>(sources: impl IntoIterator<Item = &'a Metrics>) -> String {
    let mut merged: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for mut family in sources.into_iter().flat_map(Metrics::gather) {
        match merged.get_mut(family.name()) {
            None => drop(merged.insert(family.name().to_owned(), family)),
            Some(first) => first.mut_metric().extend(family.take_metric()),
        }
    }
    let families: Vec<MetricFamily> = merged.into_values().collect();
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
        // An inconsistent family is a fault of the program; what was rendered before it is still true.
        tracing::error!(%error, "metrics could not be rendered");
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests;
