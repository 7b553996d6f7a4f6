//! Grants as they are typed: `--env K=V` and `--dir HOST[::GUEST][:ro]`.
//!
//! Owns: their grammar.
//! Never: looks at the file system; `job_args.rs` resolves host paths.

/// An environment variable for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentGrant {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A directory for the guest, before its host path is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryWish {
    /// Path on the host, as it was typed.
    pub host: String,
    /// Path the guest sees.
    pub guest: String,
    /// Whether the guest may change what is below it.
    pub writable: bool,
}

/// Why a grant makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No `=`, or nothing before it.
    #[error("write NAME=VALUE; nothing is taken over from your own environment")]
    NotAPair,
    /// A NUL.
    #[error("holds a NUL")]
    Nul,
    /// A missing half.
    #[error("write HOST, HOST::GUEST, HOST:ro or HOST::GUEST:ro")]
    EmptyPath,
    /// More than one `::`.
    #[error("has more than one `::`; write HOST::GUEST, neither with a `::` in it")]
    ManyGuests,
    /// A guest path with `..`.
    #[error("the guest's path has a `..`; name the place itself")]
    GuestParent,
}

/// Reads `K=V`.
///
/// # Errors
/// When it is not a pair.
pub fn environment(text: &str) -> Result<EnvironmentGrant, GrantError> {
    if text.contains('\0') {
        return Err(GrantError::Nul);
    }
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(EnvironmentGrant { name: name.to_owned(), value: value.to_owned() })
        }
        Some(_) | None => Err(GrantError::NotAPair),
    }
}

/// Reads `HOST[::GUEST][:ro]`. Without GUEST the guest sees HOST's own name, as it was typed. A path that itself
/// ends in `:ro` is written with `:rw` after it.
///
/// # Errors
/// When a half is missing, there are more than two, or the guest's path has a `..`.
pub fn directory(text: &str) -> Result<DirectoryWish, GrantError> {
    if text.contains('\0') {
        return Err(GrantError::Nul);
    }
    let (paths, writable) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
        // `HOST::ro` names a guest path of `ro`, not half a grant.
        (Some(paths), _) if !paths.ends_with(':') => (paths, false),
        (_, Some(paths)) if !paths.ends_with(':') => (paths, true),
        (_, _) => (text, true),
    };
    let (host, guest) = paths.split_once("::").unwrap_or((paths, paths));
    if host.is_empty() || guest.is_empty() || guest.starts_with(':') {
        return Err(GrantError::EmptyPath);
    }
    let two = paths.contains("::");
    if two && guest.contains("::") {
        return Err(GrantError::ManyGuests);
    }
    if two && guest.split('/').any(|part| part == "..") {
        return Err(GrantError::GuestParent);
    }
    Ok(DirectoryWish { host: host.to_owned(), guest: guest.to_owned(), writable })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directory_in_every_form_is_read() {
        for (text, host, guest, writable) in [
            ("data", "data", "data", true),
            ("/srv/data:ro", "/srv/data", "/srv/data", false),
            ("/srv/data::/data", "/srv/data", "/data", true),
            ("/srv/data::/data:ro", "/srv/data", "/data", false),
            ("/srv/data::/data:rw", "/srv/data", "/data", true),
            ("/srv/a:b::/c", "/srv/a:b", "/c", true),
            ("/srv/a:b", "/srv/a:b", "/srv/a:b", true),
            ("/srv/x:ro:rw", "/srv/x:ro", "/srv/x:ro", true),
            ("data::ro", "data", "ro", true),
            ("../up:ro", "../up", "../up", false),
            (".", ".", ".", true),
        ] {
            let wish = DirectoryWish { host: host.into(), guest: guest.into(), writable };
            assert_eq!(directory(text), Ok(wish), "{text}");
        }
    }

    #[test]
    fn directory_that_makes_no_sense_is_refused() {
        for (text, error) in [
            ("", GrantError::EmptyPath),
            (":ro", GrantError::EmptyPath),
            ("::/data", GrantError::EmptyPath),
            ("/srv::", GrantError::EmptyPath),
            ("/srv:::ro", GrantError::EmptyPath),
            ("/a::/b::/c", GrantError::ManyGuests),
            ("/a::/b/../c", GrantError::GuestParent),
            ("/a\0", GrantError::Nul),
        ] {
            assert_eq!(directory(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn environment_is_a_pair_or_refused() {
        let grant = |name: &str, value: &str| EnvironmentGrant { name: name.into(), value: value.into() };
        assert_eq!(environment("A=b=c"), Ok(grant("A", "b=c")));
        assert_eq!(environment("A="), Ok(grant("A", "")));
        assert_eq!(environment("A"), Err(GrantError::NotAPair));
        assert_eq!(environment("=b"), Err(GrantError::NotAPair));
        assert_eq!(environment("A=\0"), Err(GrantError::Nul));
    }

    proptest! {
        #[test]
        fn directory_of_any_text_has_both_paths_or_is_refused(text in "[:/ro.w~a\0]{0,16}") {
            if let Ok(wish) = directory(&text) {
                prop_assert!(!wish.host.is_empty() && !wish.guest.is_empty());
            }
        }
    }
}
