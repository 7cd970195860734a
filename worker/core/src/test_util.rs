//! What the tests of this crate share: small geometries, requests, and a configuration.

use std::time::Duration;

use hadal_types::{
    Attention, Choice, Encoding, Field, Geometry, Incarnation, Keep, Layer, LayerId, NumericsClass, Part, Placement,
    Read, RequestId, Rows, SamplingParams, Store, StoreId,
};

use crate::{Config, Generate};

/// Layers with a latent store each, listed before their index store if there is one. Rows of 4 and 8 bytes.
pub(crate) fn geometry(layers: u32, index: bool) -> Geometry {
    let mut stores = Vec::new();
    let mut list = Vec::new();
    for layer in 0..layers {
        let store = |part, count| Store {
            owner: LayerId(layer),
            part,
            stride: 1,
            record: vec![Field { name: "row".into(), encoding: Encoding::F32, count }],
            placement: Placement::PerRow,
            keep: Keep::All,
        };
        let latent = StoreId(stores.len() as u32);
        stores.push(store(Part::Latent, 2));
        if index {
            stores.push(store(Part::Index, 1));
        }
        let choice = if index { Choice::Own { scores: StoreId(latent.0 + 1), k: 4 } } else { Choice::None };
        let reads = vec![Read { store: latent, rows: if index { Rows::Chosen } else { Rows::All } }];
        list.push(Layer { id: LayerId(layer), reads, choice, draft: false });
    }
    Geometry { layout: "test".into(), stores, layers: list }
}

/// With a draft layer that owns what the others do.
pub(crate) fn with_drafts(mut geometry: Geometry) -> Geometry {
    let last = geometry.layers.len() as u32;
    let index = geometry.parts().contains(Part::Index);
    let layer = self::geometry(1, index);
    let moved = geometry.stores.len() as u32;
    let choice = match layer.layers[0].choice {
        Choice::Own { scores, k } => Choice::Own { scores: StoreId(scores.0 + moved), k },
        other => other,
    };
    let reads = layer.layers[0].reads.iter().map(|r| Read { store: StoreId(r.store.0 + moved), ..*r }).collect();
    geometry.stores.extend(layer.stores.into_iter().map(|s| Store { owner: LayerId(last), ..s }));
    geometry.layers.push(Layer { id: LayerId(last), reads, choice, draft: true });
    geometry
}

/// Two layers with both parts; `pages` blocks in each pool.
pub(crate) fn config(pages: u32) -> Config {
    Config {
        incarnation: Incarnation(7),
        numerics_class: NumericsClass([1; 16]),
        geometry: geometry(2, true),
        pages: [pages; Part::ALL.len()],
        weights_bytes: 1000,
        workspace_bytes: 100,
        context_tokens: 4096,
        vocab_tokens: 1000,
        step_tokens_max: 256,
        chunk_tokens_max: 128,
        requests_max: 16,
        local_tokens_max: 32,
        prefill_lease: Duration::from_secs(10),
    }
}

/// The same with a draft layer.
#[cfg(test)]
pub(crate) fn drafting(pages: u32) -> Config {
    Config { geometry: with_drafts(geometry(2, true)), ..config(pages) }
}

/// `n` tokens that depend on `seed`.
pub(crate) fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (seed * 131 + i * 7) % 1000).collect()
}

/// A request whose tokens are all prompt.
pub(crate) fn generate(id: &str, tokens: Vec<u32>, max_tokens: u32) -> Generate {
    Generate {
        id: RequestId::new(id).unwrap(),
        prompt_tokens: tokens.len() as u32,
        tokens,
        sampling: SamplingParams { max_tokens, ..SamplingParams::default() },
        salt: Vec::new(),
        attention: Attention::Sparse,
        deadline: None,
        prefill: false,
    }
}
