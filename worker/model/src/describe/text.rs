//! The description as text, for a terminal.

use std::fmt;

use hadal_types::{Choice, Encoding, Geometry, Placement, Store};

use super::{Description, PartSize};

/// 1.23 GB, in powers of ten as disks and prices are.
fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| n as f64 >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", n as f64 / size),
        None => format!("{n} B"),
    }
}

/// 671.0 B parameters.
fn count(n: u64) -> String {
    let units = [(1e9, "B"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| n as f64 >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", n as f64 / size),
        None => n.to_string(),
    }
}

/// 40016 as 40,016.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn record(store: &Store) -> String {
    let name = |e| match e {
        Encoding::F32 => "f32",
        Encoding::Bf16 => "bf16",
        Encoding::E4m3 => "e4m3",
        Encoding::I8 => "i8",
    };
    let fields: Vec<String> =
        store.record.iter().map(|f| format!("{} {}×{}", f.name, f.count, name(f.encoding))).collect();
    let apart = if store.placement == Placement::FieldsApart { ", fields apart" } else { "" };
    format!("{}{apart}", fields.join(" + "))
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.parameters;
        writeln!(f, "architecture      {}", self.architecture)?;
        writeln!(f, "layers            {} and {} draft (MTP)", self.layers, self.draft_layers)?;
        writeln!(f, "context           {} tokens, vocabulary {}", grouped(u64::from(self.context_tokens)), self.vocab)?;
        writeln!(f, "parameters        {} main, {} of them active a token", count(p.main), count(p.active))?;
        writeln!(
            f,
            "                  {} routed experts, {} other MLP, {} attention, {} vocabulary",
            count(p.experts),
            count(p.mlp),
            count(p.attention),
            count(p.vocabulary)
        )?;
        if p.indexer > 0 {
            writeln!(
                f,
                "                  {} more in the indexers of {} layers",
                count(p.indexer),
                self.indexer_layers
            )?;
        }
        if p.draft > 0 {
            writeln!(f, "                  {} more in the draft layers", count(p.draft))?;
        }
        writeln!(f, "weights           {}", self.weights)?;
        self.write_cache(f)?;
        self.write_memory(f)
    }
}

impl Description {
    fn write_cache(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cache layout      {}", self.geometry.layout)?;
        for part in &self.parts {
            self.write_part(f, part)?;
        }
        let total: f64 = self.parts.iter().map(|p| p.token_bytes).sum();
        let request: u64 = self.parts.iter().map(|p| p.request_bytes).sum();
        let tokens = grouped(self.memory.context_tokens);
        writeln!(f, "  together        {} B a token, {} for {tokens} tokens", grouped(total as u64), bytes(request))?;
        writeln!(f, "  a decode step   reads {} of {}", bytes(self.step_bytes), bytes(request))?;
        writeln!(f, "  layers          {}", choices(&self.geometry, self.index_topk))
    }

    fn write_part(&self, f: &mut fmt::Formatter<'_>, part: &PartSize) -> fmt::Result {
        let store = self.geometry.stores.iter().find(|s| s.part.name() == part.part);
        writeln!(
            f,
            "  {:<15} {} stores × {} B = {} B a token, {} a request; a page is {}",
            part.part,
            part.stores,
            part.row_bytes,
            grouped(part.token_bytes as u64),
            bytes(part.request_bytes),
            bytes(part.page_bytes)
        )?;
        store.map_or(Ok(()), |s| writeln!(f, "                  row: {}", record(s)))
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.memory;
        let requests = if m.batch == 1 { "request" } else { "requests" };
        writeln!(
            f,
            "memory            of each of {} members, for {} {requests} of {} tokens",
            m.ep,
            m.batch,
            grouped(m.context_tokens)
        )?;
        let lines = [
            ("experts", m.expert_bytes),
            ("other weights", m.other_weight_bytes),
            ("index", m.index_bytes),
            ("latent", m.latent_bytes),
            ("workspace", m.workspace_bytes),
            ("together", m.total_bytes),
        ];
        for (name, n) in lines.into_iter().filter(|(_, n)| *n > 0) {
            let note =
                if name == "experts" { format!("  ({} of each layer)", m.experts_per_member) } else { String::new() };
            writeln!(f, "  {name:<15} {:>10}{note}", bytes(n))?;
        }
        if m.draft_bytes > 0 {
            writeln!(f, "  draft layers    {:>10}  (only with speculation)", bytes(m.draft_bytes))?;
        }
        Ok(())
    }
}

/// How the layers choose, in a sentence.
fn choices(geometry: &Geometry, topk: usize) -> String {
    let all = geometry.layers.len();
    let own = geometry.layers.iter().filter(|l| matches!(l.choice, Choice::Own { .. })).count();
    let reuse = geometry.layers.iter().filter(|l| matches!(l.choice, Choice::Reuse { .. })).count();
    match (own, reuse) {
        (0, _) => format!("{all} read every row"),
        (_, 0) => format!("{own} choose {} rows each", grouped(topk as u64)),
        _ => format!("{own} choose {} rows each, {reuse} reuse the choice of an earlier layer", grouped(topk as u64)),
    }
}
