//! The paged cache: for each store, pages of one block each. Page `p` of a part is page `p` of every store of it.

use hadal_types::{BLOCK_TOKENS, Geometry, Part, StoreId};

use crate::files::{Random, UNIFORM};
use crate::geometry::{index_codec, latent_codec};
use crate::model::Model;

/// A page that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No such store.
    #[error("the cache has no store {store}; it has {stores}")]
    Store {
        /// The store asked for.
        store: u32,
        /// How many there are.
        stores: usize,
    },
    /// No such page.
    #[error("store {store} has no page {page}; it has {pages}")]
    Page {
        /// The store.
        store: u32,
        /// The page asked for.
        page: u32,
        /// How many there are.
        pages: u32,
    },
    /// Bytes of another size.
    #[error("a page of store {store} has {expected} bytes; got {found}")]
    Size {
        /// The store.
        store: u32,
        /// Bytes of a page.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// All pages of all stores. Memory that was never written costs nothing where the system maps pages lazily.
pub struct Cache {
    pub(crate) pools: Vec<Pool>,
}

/// The pages of one store.
pub(crate) struct Pool {
    pub(crate) part: Part,
    pub(crate) page_bytes: usize,
    pub(crate) pages: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Cache {
    /// So many pages of each part; a part that is not named has none.
    pub(crate) fn new(geometry: &Geometry, pages: &[(Part, u32)]) -> Self {
        let pools = geometry.stores.iter().map(|store| {
            let pages = pages.iter().find(|(part, _)| *part == store.part).map_or(0, |(_, n)| *n);
            let page_bytes = store.block_bytes() as usize;
            Pool { part: store.part, page_bytes, pages, bytes: vec![0; page_bytes * pages as usize] }
        });
        Self { pools: pools.collect() }
    }

    /// The bytes of one page of a store.
    ///
    /// # Errors
    /// When there is no such store or page.
    pub fn page(&self, store: StoreId, page: u32) -> Result<&[u8], PageError> {
        let pool = self.pool(store)?;
        let begin = pool.offset(store, page)?;
        Ok(&pool.bytes[begin..begin + pool.page_bytes])
    }

    /// Overwrites the beginning of one page of a store; `bytes` may be a page or less.
    ///
    /// # Errors
    /// When there is no such store or page, or `bytes` are more than one.
    pub fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), PageError> {
        let begin = self.pool(store)?.offset(store, page)?;
        let pool = &mut self.pools[store.0 as usize];
        if bytes.len() > pool.page_bytes {
            return Err(PageError::Size { store: store.0, expected: pool.page_bytes, found: bytes.len() });
        }
        pool.bytes[begin..begin + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Fills every page with random rows, no two alike, as a long sequence would leave them: for benches.
    pub fn fill(&mut self, model: &Model) {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        for (number, pool) in self.pools.iter_mut().enumerate() {
            let (part, page_bytes) = (pool.part, pool.page_bytes.max(1));
            let share = (pool.bytes.len() / page_bytes).div_ceil(threads).max(1) * page_bytes;
            std::thread::scope(|scope| {
                for (job, bytes) in pool.bytes.chunks_mut(share).enumerate() {
                    let random = Random::new((number * threads + job) as u64);
                    scope.spawn(move || fill(model, part, bytes.chunks_exact_mut(page_bytes), random));
                }
            });
        }
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.pools.iter().map(|p| p.bytes.len() as u64).sum()
    }

    /// Pages of a part.
    pub fn pages(&self, part: Part) -> u32 {
        self.pools.iter().find(|p| p.part == part).map_or(0, |p| p.pages)
    }

    fn pool(&self, store: StoreId) -> Result<&Pool, PageError> {
        self.pools.get(store.0 as usize).ok_or(PageError::Store { store: store.0, stores: self.pools.len() })
    }
}

/// Rows of latents are normed and index keys, too: their numbers are around 1.
fn fill<'a>(model: &Model, part: Part, pages: impl Iterator<Item = &'a mut [u8]>, mut random: Random) {
    let (latent, index) = (latent_codec(&model.config, model.kv), index_codec(&model.config, model.kv));
    let (rank, width) = (latent.rank(), latent.width());
    let mut row = vec![0.0; width.max(index.dim())];
    for page in pages {
        for slot in 0..BLOCK_TOKENS as usize {
            row.iter_mut().for_each(|v| *v = random.number() * UNIFORM);
            match part {
                Part::Latent => latent.encode(page, slot, &row[..rank], &row[rank..width]),
                Part::Index => index.encode(page, slot, &row[..index.dim()]),
            }
        }
    }
}

impl Pool {
    fn offset(&self, store: StoreId, page: u32) -> Result<usize, PageError> {
        if page >= self.pages {
            return Err(PageError::Page { store: store.0, page, pages: self.pages });
        }
        Ok(page as usize * self.page_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{Encoding, Field, Keep, LayerId, Placement, Store};

    fn cache() -> Cache {
        let record = vec![Field { name: "x".into(), encoding: Encoding::I8, count: 2 }];
        let store = Store {
            owner: LayerId(0),
            part: Part::Latent,
            stride: 1,
            record,
            placement: Placement::PerRow,
            keep: Keep::All,
        };
        Cache::new(&Geometry { layout: String::new(), stores: vec![store], layers: vec![] }, &[(Part::Latent, 2)])
    }

    #[test]
    fn a_written_page_reads_back_and_its_neighbour_stays() {
        let mut cache = cache();
        cache.write_page(StoreId(0), 1, &[7; 128]).unwrap();
        assert_eq!(cache.page(StoreId(0), 1).unwrap(), [7; 128]);
        assert_eq!(cache.page(StoreId(0), 0).unwrap(), [0; 128]);
        assert_eq!(cache.bytes(), 256);
    }

    #[test]
    fn pages_that_do_not_exist_are_refused() {
        let mut cache = cache();
        assert!(matches!(cache.page(StoreId(1), 0), Err(PageError::Store { .. })));
        assert!(matches!(cache.page(StoreId(0), 2), Err(PageError::Page { .. })));
        assert!(matches!(cache.write_page(StoreId(0), 0, &[0; 129]), Err(PageError::Size { .. })));
    }
}
