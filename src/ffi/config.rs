//! What a pool is made of

use super::address;
use super::status::{ErrorInfo, Failure, Status, answer};
use super::types::{ip, mode, unknown};
use super::{object, place};
use crate::connect::{self, Maintenance, PoolBuilder, PrivilegedPorts};
use crate::error::Error;
use crate::kernel::{self, ModeChoice, SourceOptions};
use crate::ledger::{PortRange, Sources};
use crate::territory::Slice;
use std::ffi::{CStr, OsStr, c_char};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// What a pool is made of: sources, ports, and how to use them. Can make any number of pools.
#[derive(Clone, Debug, Default)]
pub struct Config {
    sources: Vec<Sources>,
    ports: Option<PortRange>,
    mode: ModeChoice,
    rest: Duration,
    privileged: PrivilegedPorts,
    seed: Option<[u8; 32]>,
    territory: Territory,
    maintenance: Maintenance,
    options: SourceOptions,
    options_of: Vec<(IpAddr, SourceOptions)>,
}

/// Which of the ports are for the pool.
#[derive(Clone, Debug, Default)]
enum Territory {
    #[default]
    Whole,
    Shared(PathBuf),
    Slice(Slice),
}

/// portlease_config_set_source_flags(): bind to addresses that are not, or not yet, this host's;
/// needs no privilege (IP_FREEBIND).
pub const PORTLEASE_FREEBIND: u32 = 1;

/// portlease_config_set_source_flags(): bind to addresses of other hosts, for transparent
/// proxies; needs CAP_NET_ADMIN or CAP_NET_RAW (IP_TRANSPARENT).
pub const PORTLEASE_TRANSPARENT: u32 = 2;

/// Makes an empty configuration. Free it with portlease_config_free(), as soon as the pool is
/// made if you like.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_new(config: *mut *mut Config) -> Status {
    answer(std::ptr::null_mut(), || {
        let config = place("config", config)?;
        // SAFETY: not NULL, so a place of the caller's for a pointer.
        unsafe { config.write(Box::into_raw(Box::default())) };
        Ok(())
    })
}

/// Frees a configuration; NULL is none. Pools made from it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_free(config: *mut Config) {
    answer(std::ptr::null_mut(), || {
        if !config.is_null() {
            // SAFETY: the caller gives back what `portlease_config_new` made, once.
            drop(unsafe { Box::from_raw(config) });
        }
        Ok(())
    });
}

/// Adds source addresses, as people write them: parts with commas or white space between them,
/// each an address, a range or a prefix, with or without ports:
/// `10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0/28:2048-4095, [2001:db8::7]:5000-5999`.
/// A text with an error adds nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_add_sources(
    config: *mut Config,
    sources: *const c_char,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            let text = text("sources", sources)?;
            let sources = Sources::parse_with_interfaces(text, kernel::interface_index);
            config.sources.push(sources.map_err(Error::from)?);
            Ok(())
        })
    }
}

/// Sets the ports, first and last included, of all sources that do not name their own. Without
/// this call they have those of net.ipv4.ip_local_port_range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_ports(
    config: *mut Config,
    first: u16,
    last: u16,
    error: *mut ErrorInfo,
) -> Status {
    let range = || {
        PortRange::new(first, last).ok_or_else(|| match first {
            0 => unknown("first", 0, "a port from 1"),
            _ => unknown("last", last.into(), "a port that is not below first"),
        })
    };
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.ports = Some(range()?);
            Ok(())
        })
    }
}

/// Sets how sockets are bound, a portlease_mode. Without this call PORTLEASE_MODE_BY_PORT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_mode(
    config: *mut Config,
    mode: i32,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.mode = self::mode(mode)?;
            Ok(())
        })
    }
}

/// Sets the least time in milliseconds that a four-tuple rests after its connection was closed,
/// for a firewall or NAT on the way that remembers longer than the kernel. Without this call 0:
/// it rests as long as the kernel needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_rest_ms(
    config: *mut Config,
    rest_ms: u64,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.rest = Duration::from_millis(rest_ms);
            Ok(())
        })
    }
}

/// Sets whether ports below 1024 may be leased, a portlease_privileged. Without this call
/// PORTLEASE_PRIVILEGED_REFUSE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_privileged_ports(
    config: *mut Config,
    privileged: i32,
    error: *mut ErrorInfo,
) -> Status {
    let privileged = || match privileged {
        0 => Ok(PrivilegedPorts::Refuse),
        1 => Ok(PrivilegedPorts::Lease),
        _ => Err(unknown("privileged", privileged, "a portlease_privileged (0 or 1)")),
    };
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.privileged = privileged()?;
            Ok(())
        })
    }
}

/// Shares the ports with all pools on this host that name the same file, in this process and in
/// others: no two of them lease the same port of the same source. The file is made where it is
/// missing, for its owner alone; put it on a local filesystem, such as /run, and remove it only
/// when no pool uses it: a pool is refused while others have one of its ports through another file,
/// or through a former one of that name. The kernel gives back the ports of a process that dies,
/// however it dies.
/// NULL as path takes back this call or portlease_config_set_slice(): of the two the last counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_shared(
    config: *mut Config,
    path: *const c_char,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.territory = match path.is_null() {
                true => Territory::Whole,
                false => {
                    // Not `text`: a path need not be UTF-8.
                    let path = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
                    Territory::Shared(path.into())
                }
            };
            Ok(())
        })
    }
}

/// Sets who looks after ports that are shared, a portlease_maintenance. Without this call
/// PORTLEASE_MAINTENANCE_BY_CALLERS. A pool that shares nothing has no thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_maintenance(
    config: *mut Config,
    maintenance: i32,
    error: *mut ErrorInfo,
) -> Status {
    let maintenance = || match maintenance {
        0 => Ok(Maintenance::ByCallers),
        1 => Ok(Maintenance::ByThread),
        _ => Err(unknown("maintenance", maintenance, "a portlease_maintenance (0 or 1)")),
    };
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.maintenance = maintenance()?;
            Ok(())
        })
    }
}

/// Leases only the slice number (from 1) of count equal slices of each source's ports, for a
/// planned split among processes that needs no file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_slice(
    config: *mut Config,
    number: u32,
    count: u32,
    error: *mut ErrorInfo,
) -> Status {
    let slice = || {
        let value = number.into();
        let known = "a slice from 1 to count";
        Slice::new(number, count).ok_or(Failure::Number { argument: "number", value, known })
    };
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.territory = Territory::Slice(slice()?);
            Ok(())
        })
    }
}

/// Sets the seed of all random choices, 32 bytes, for runs that can be repeated: a thread then
/// chooses the same ports each time. Without this call the kernel gives one. Who knows the seed
/// can guess ports.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_seed(
    config: *mut Config,
    seed: *const u8,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions; 32 bytes have the alignment of one.
    unsafe {
        set(config, error, |config| {
            config.seed = Some(*object("seed", seed.cast::<[u8; 32]>())?);
            Ok(())
        })
    }
}

/// Sets PORTLEASE_FREEBIND, PORTLEASE_TRANSPARENT, both or none (0) for one source address, or,
/// where source is NULL, for all that have no option of their own. The port of source does not
/// matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_source_flags(
    config: *mut Config,
    source: *const libc::sockaddr,
    source_len: libc::socklen_t,
    flags: u32,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            if flags & !(PORTLEASE_FREEBIND | PORTLEASE_TRANSPARENT) != 0 {
                let known = "PORTLEASE_FREEBIND (1) and PORTLEASE_TRANSPARENT (2)";
                return Err(Failure::Number { argument: "flags", value: flags.into(), known });
            }
            let options = config.options_of(source, source_len)?;
            options.freebind = flags & PORTLEASE_FREEBIND != 0;
            options.transparent = flags & PORTLEASE_TRANSPARENT != 0;
            Ok(())
        })
    }
}

/// Sets the interface that traffic leaves through (SO_BINDTODEVICE), for one source address, or,
/// where source is NULL, for all that have no option of their own. NULL as device is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_source_device(
    config: *mut Config,
    source: *const libc::sockaddr,
    source_len: libc::socklen_t,
    device: *const c_char,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            let device = match device.is_null() {
                true => None,
                false => Some(text("device", device)?.to_owned()),
            };
            config.options_of(source, source_len)?.device = device;
            Ok(())
        })
    }
}

/// Sets the mark for routing and firewall rules (SO_MARK; needs CAP_NET_ADMIN), for one source
/// address, or, where source is NULL, for all that have no option of their own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portlease_config_set_source_mark(
    config: *mut Config,
    source: *const libc::sockaddr,
    source_len: libc::socklen_t,
    mark: u32,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: the conventions.
    unsafe {
        set(config, error, |config| {
            config.options_of(source, source_len)?.mark = Some(mark);
            Ok(())
        })
    }
}

/// Runs a setter.
///
/// # Safety
///
/// The pointers keep to the conventions, and the configuration is the caller's alone.
unsafe fn set(
    config: *mut Config,
    error: *mut ErrorInfo,
    setter: impl FnOnce(&mut Config) -> Result<(), Failure>,
) -> Status {
    answer(error, || {
        let mut config = place("config", config)?;
        // SAFETY: not NULL, so what `portlease_config_new` made, and the caller's alone.
        setter(unsafe { config.as_mut() })
    })
}

/// A text of the caller's.
///
/// # Safety
///
/// `text` is NULL or ends with a zero byte.
unsafe fn text<'a>(argument: &'static str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::Null(argument));
    }
    // SAFETY: not NULL, so a string of the caller's.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|bad| {
        let problem = format!("argument {argument} is no UTF-8 from byte {}", bad.valid_up_to());
        Error::Config { problem }.into()
    })
}

impl Config {
    /// The options of a source address, or of all.
    ///
    /// # Safety
    ///
    /// `source` is NULL or points to `source_len` readable bytes.
    unsafe fn options_of(
        &mut self,
        source: *const libc::sockaddr,
        source_len: libc::socklen_t,
    ) -> Result<&mut SourceOptions, Failure> {
        if source.is_null() {
            return Ok(&mut self.options);
        }
        // SAFETY: as promised to us.
        let source = ip(unsafe { address::read("source", source, source_len) }?);
        let known = self.options_of.iter().position(|(address, _)| *address == source);
        let at = known.unwrap_or_else(|| {
            self.options_of.push((source, SourceOptions::default()));
            self.options_of.len() - 1
        });
        Ok(&mut self.options_of[at].1)
    }

    /// The same, to build a pool from.
    pub(super) fn builder(&self) -> PoolBuilder {
        let mut builder = connect::Pool::builder()
            .bind_mode(self.mode)
            .min_rest(self.rest)
            .privileged_ports(self.privileged)
            .maintenance(self.maintenance)
            .options(self.options.clone())
            .lease_ids();
        for source in self.sources.iter().flatten().cloned() {
            builder = builder.add_source(source);
        }
        if let Some(ports) = self.ports {
            builder = builder.ports(ports);
        }
        if let Some(seed) = self.seed {
            builder = builder.seed(seed);
        }
        match &self.territory {
            Territory::Whole => {}
            Territory::Shared(path) => builder = builder.shared(path),
            Territory::Slice(slice) => builder = builder.slice(*slice),
        }
        for (source, options) in &self.options_of {
            builder = builder.options_of(*source, options.clone());
        }
        builder
    }
}
