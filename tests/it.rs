//! The integration tests, as one binary: linking candle is slow.

mod it {
    #[cfg(feature = "hub")]
    mod hub;
    mod registry;
    mod resume;
    mod toy;
    mod train;
}
