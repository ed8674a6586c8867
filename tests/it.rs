//! The integration tests, as one binary: linking candle is slow.

mod it {
    mod classify;
    mod cli;
    mod data;
    mod downstream;
    mod expansions;
    mod experiment;
    #[cfg(feature = "hub")]
    mod hub;
    mod models;
    mod registry;
    mod resume;
    mod toy;
    mod train;
    mod weights;
}
