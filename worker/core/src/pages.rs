//! The pages of one part: which of them are free. A page is one block of every store of the part.

/// A pool of pages. Lower numbers are given first while the pool is fresh; afterwards the one given back last.
#[derive(Debug)]
pub(crate) struct PagePool {
    free: Vec<u32>,
    taken: Vec<bool>,
}

impl PagePool {
    pub(crate) fn new(total: u32) -> Self {
        Self { free: (0..total).rev().collect(), taken: vec![false; total as usize] }
    }

    pub(crate) fn total(&self) -> usize {
        self.taken.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.taken[page as usize] = true;
        Some(page)
    }

    /// A page that is not taken is left alone: twice in the free list, it would be given to two requests.
    pub(crate) fn give(&mut self, page: u32) {
        let taken = self.taken.get_mut(page as usize).is_some_and(std::mem::take);
        debug_assert!(taken, "page {page} is given back twice");
        if taken {
            self.free.push(page);
        }
    }
}

/// What the tests of the whole core look at.
#[cfg(any(test, feature = "test-util"))]
impl PagePool {
    /// The free pages, each of them once.
    pub(crate) fn audit(&self) -> &[u32] {
        let free = self.taken.iter().filter(|taken| !**taken).count();
        assert_eq!(free, self.free.len());
        &self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_given_once_until_they_come_back() {
        let mut pool = PagePool::new(2);
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(0), Some(1), None));
        pool.give(0);
        assert_eq!((pool.free(), pool.total()), (1, 2));
        assert_eq!(pool.take(), Some(0));
    }

    #[test]
    #[should_panic = "given back twice"]
    fn giving_a_page_back_twice_is_caught() {
        let mut pool = PagePool::new(1);
        let page = pool.take().unwrap();
        pool.give(page);
        pool.give(page);
    }
}
