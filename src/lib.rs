

pub mod config;
