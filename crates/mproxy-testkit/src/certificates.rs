//! Certificates for one test: authorities, what they sign and take back, and files to put it in.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// An authority, and the chain from it up to below the root.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    above: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its chain, and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate, then whoever signed it, up to below the root.
    pub chain: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// One that signs itself.
    pub fn root(name: &str) -> Self {
        let (params, key) = authority(name);
        let pem = sure(params.self_signed(&key)).pem();
        Self { pem, issuer: Issuer::new(params, key), above: String::new() }
    }

    /// One that this one has signed.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = authority(name);
        let pem = sure(params.signed_by(&key, &self.issuer)).pem();
        let above = format!("{pem}{}", self.above);
        Self { pem, issuer: Issuer::new(params, key), above }
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key, in PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Valid now and for this name, which is the common name, too.
    pub fn sign(&self, name: &str) -> Signed {
        self.sign_with(name, |_| ())
    }

    /// The same, with this serial number.
    pub fn sign_numbered(&self, name: &str, serial: u64) -> Signed {
        self.sign_with(name, |params| params.serial_number = Some(serial.into()))
    }

    /// The same after a change.
    pub fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let mut params = sure(CertificateParams::new(vec![name.to_owned()]));
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = sure(KeyPair::generate());
        let leaf = sure(params.signed_by(&key, &self.issuer));
        Signed { chain: format!("{}{}", leaf.pem(), self.above), key: key.serialize_pem() }
    }

    /// A list in PEM that takes these serial numbers back.
    pub fn revoke(&self, serials: &[u64]) -> String {
        self.revoke_until(serials, 2100)
    }

    /// One that is in force until the beginning of that year.
    pub fn revoke_until(&self, serials: &[u64], year: i32) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        sure(sure(list.signed_by(&self.issuer)).pem())
    }
}

/// Expired since 2021; for [`Authority::sign_with`].
pub fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    (params, sure(KeyPair::generate()))
}

fn sure<T>(made: Result<T, rcgen::Error>) -> T {
    made.unwrap_or_else(|error| panic!("no certificate: {error}"))
}

/// A folder of files that is gone when this is dropped.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Default for Folder {
    fn default() -> Self {
        Self(TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}")))
    }
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where a file of it is, or would be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and says where it is. Whoever reads it meanwhile sees the old one or the new one.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let (path, draft) = (self.file(name), self.file(&format!("{name}.draft")));
        let written = fs::write(&draft, contents).and_then(|()| fs::rename(&draft, &path));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub fn keep(&self, name: &str, signed: &Signed) -> (PathBuf, PathBuf) {
        (self.write(&format!("{name}.crt"), &signed.chain), self.write(&format!("{name}.key"), &signed.key))
    }
}
