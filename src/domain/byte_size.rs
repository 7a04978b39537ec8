//! Sizes in bytes as settings and DAG files write them: a number of bytes, or `512MiB`, `2GB`.

/// Reads `512MiB`, `2GB` or a number of bytes. `kB`, `MB` and `GB` are powers of 1000; `KiB`, `MiB`, `GiB`, and the bare
/// `k`, `m` and `g` that Java and Docker know, are powers of 1024. `None` for what is none, and for nothing at all.
#[must_use]
pub fn parse_byte_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    let number: u64 = text[..digits].parse().ok()?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_units() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("512m", 512 << 20),
            ("512MiB", 512 << 20),
            (" 512 MB ", 512_000_000),
            ("2GB", 2_000_000_000),
            ("2g", 2 << 30),
            ("64k", 64 << 10),
            ("7b", 7),
        ] {
            assert_eq!(parse_byte_size(text), Some(bytes), "{text}");
        }
        for text in ["", "0", "0MB", "lots", "1.5GB", "-1", "5TB", "18446744073709551615k"] {
            assert_eq!(parse_byte_size(text), None, "{text}");
        }
    }
}
