//! What a new file has from the one whose place it takes: owner, permissions and, on Linux,
//! extended attributes, of which access control lists are one.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// All of it.
pub(super) struct Kept {
    metadata: Metadata,
    #[cfg(target_os = "linux")]
    attributes: Vec<linux::Attribute>,
}

impl Kept {
    /// Of a file that there is.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            metadata: path.metadata()?,
            #[cfg(target_os = "linux")]
            attributes: linux::attributes(path)?,
        })
    }

    /// Gives it to `file`. What lets a program run as somebody else is not kept, as that is not
    /// theirs any more.
    ///
    /// The permissions come last: until then the file is its writer's alone.
    #[cfg(unix)]
    pub fn give(&self, file: &File) -> io::Result<()> {
        use std::fs::Permissions;
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let (old, new) = (&self.metadata, file.metadata()?);
        let other = |old: u32, new: u32| (old != new).then_some(old);
        let (owner, group) = (other(old.uid(), new.uid()), other(old.gid(), new.gid()));
        if owner.or(group).is_some() {
            fchown(file, owner, group)?;
        }
        #[cfg(target_os = "linux")]
        linux::give(&self.attributes, file)?;
        file.set_permissions(Permissions::from_mode(old.mode() & 0o777))
    }

    /// Gives it to `file`.
    #[cfg(not(unix))]
    pub fn give(&self, file: &File) -> io::Result<()> {
        file.set_permissions(self.metadata.permissions())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{CStr, CString};
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
    use rustix::io::Errno;

    pub type Attribute = (CString, Vec<u8>);

    /// The most that the kernel allows, of a value and of all names.
    const LARGEST: usize = 1 << 16;

    /// Those of a file; none where its file system has none.
    pub fn attributes(path: &Path) -> io::Result<Vec<Attribute>> {
        let mut attributes = Vec::new();
        for name in names(|buffer| listxattr(path, buffer))? {
            let mut value = vec![0; LARGEST];
            match getxattr(path, name.as_c_str(), value.as_mut_slice()) {
                Ok(len) => {
                    value.truncate(len);
                    attributes.push((name, value));
                }
                Err(_) if !is_the_users(&name) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(attributes)
    }

    /// Gives a file these and no others: a folder can have given it a list of its own.
    pub fn give(attributes: &[Attribute], file: &File) -> io::Result<()> {
        for name in names(|buffer| flistxattr(file, buffer))? {
            if is_the_users(&name) && attributes.iter().all(|(kept, _)| *kept != name) {
                fremovexattr(file, name.as_c_str())?;
            }
        }
        for (name, value) in attributes {
            match fsetxattr(file, name.as_c_str(), value, XattrFlags::empty()) {
                Err(error) if is_the_users(name) => return Err(error.into()),
                // Labels of the system's, which it gives as it sees fit.
                _ => {}
            }
        }
        Ok(())
    }

    fn names(list: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<CString>> {
        let mut buffer = vec![0; LARGEST];
        match list(&mut buffer) {
            Ok(len) => {
                let names = buffer[..len].split_inclusive(|&byte| byte == 0);
                let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
                Ok(names
                    .map(CStr::to_owned)
                    // The right to act for root, which a file that was written to loses.
                    .filter(|name| name.as_bytes() != b"security.capability")
                    .collect())
            }
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it was somebody's wish that it is there.
    fn is_the_users(name: &CStr) -> bool {
        let name = name.to_bytes();
        name.starts_with(b"user.") || name == b"system.posix_acl_access"
    }
}
