//! The Rust program of mistral.rs's Gemma 3 page, to the letter but for the crate's name; `tests/examples.rs` runs it.
//!
//! The model's id is a folder where it runs. The picture's address is replaced here, behind the program's back.

use std::env;

/// The page's program.
mod page {
    /// Stands before the crate of that name.
    mod reqwest {
        pub(super) mod blocking {
            pub fn get(address: &str) -> ::reqwest::Result<::reqwest::blocking::Response> {
                assert!(address.starts_with("https://www.nhmagazine.com/"));
                ::reqwest::blocking::get(crate::env::var("PAGE_IMAGE").expect("where the picture is"))
            }
        }
    }

    include!("program.rs");

    pub fn run() -> Result<()> {
        main()
    }
}

fn main() -> anyhow::Result<()> {
    page::run()
}
