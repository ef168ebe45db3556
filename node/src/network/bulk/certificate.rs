//! TLS settings of the bulk plane: libp2p's certificate scheme, with AES first among the ciphers.
//! The scheme itself (a self-signed certificate that carries the identity key's signature) is libp2p's code; its own
//! settings prefer ChaCha20, which costs a quarter more processor time on machines with AES instructions.

use std::io;
use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use synod_protocol::identity::PeerId;

use super::super::identity::from_libp2p;
use super::wire::ALPN;

static TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = vec![
        TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites,
        ..aws_lc_rs::default_provider()
    })
}

/// A fresh certificate. It goes round rustls's own check of it, which does not know the scheme's critical extension.
fn own_certificate(keypair: &Keypair) -> io::Result<Arc<SingleCertAndKey>> {
    let (own, key) = certificate::generate(keypair).map_err(io::Error::other)?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).map_err(io::Error::other)?;
    Ok(Arc::new(CertifiedKey::new(vec![own], key).into()))
}

/// Proves us, and accepts any peer of the scheme; who it is, its certificate says.
pub(super) fn server(keypair: &Keypair) -> io::Result<rustls::ServerConfig> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS13)
        .map_err(io::Error::other)?
        .with_client_cert_verifier(Arc::new(Scheme { expected: None }))
        .with_cert_resolver(own_certificate(keypair)?);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Proves us, and accepts this peer only.
pub(super) fn client(keypair: &Keypair, peer: &PeerId) -> io::Result<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS13)
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Scheme { expected: Some(*peer) }))
        .with_client_cert_resolver(own_certificate(keypair)?);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Whom a verified chain names.
pub(super) fn peer_of(chain: &[CertificateDer<'static>]) -> Option<PeerId> {
    let certificate = certificate::parse(chain.first()?).ok()?;
    from_libp2p(&certificate.peer_id())
}

/// Checks certificates by libp2p's rules: one certificate, signed by itself and by the identity that it names.
#[derive(Debug)]
struct Scheme {
    expected: Option<PeerId>,
}

impl Scheme {
    fn check(&self, end: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !chain.is_empty() {
            return Err(Error::General("more than one certificate".to_owned()));
        }
        let named = certificate::parse(end).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        // Other kinds of keys are no peers of ours.
        match (from_libp2p(&named.peer_id()), self.expected) {
            (Some(named), Some(expected)) if named == expected => Ok(()),
            (Some(_), None) => Ok(()),
            _ => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn check_signature(
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let named = certificate::parse(end).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        named
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

const TLS12_REFUSED: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

/// What the scheme allows for certificate keys, best first.
fn schemes() -> Vec<SignatureScheme> {
    use SignatureScheme::{ECDSA_NISTP256_SHA256, ECDSA_NISTP384_SHA384, ED25519};
    vec![ECDSA_NISTP256_SHA256, ED25519, ECDSA_NISTP384_SHA384]
}

impl ServerCertVerifier for Scheme {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12_REFUSED)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Scheme {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12_REFUSED)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::tls;
    use synod_protocol::identity::Identity;

    use super::super::super::identity::{keypair, to_libp2p};
    use super::*;

    /// Lets two TLS ends talk in memory until both are done or one refuses.
    fn handshake(
        client: rustls::ClientConfig,
        server: rustls::ServerConfig,
    ) -> Result<rustls::ServerConnection, Error> {
        let name = ServerName::try_from("synod").expect("literal");
        let mut client = rustls::ClientConnection::new(Arc::new(client), name)?;
        let mut server = rustls::ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("memory");
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets()?;
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok(server)
    }

    #[test]
    fn both_ends_prove_who_they_are_and_agree_on_aes() {
        let (ours, theirs) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let to_them = client(&keypair(&ours), &theirs.peer_id()).expect("settings");
        let server = handshake(to_them, server(&keypair(&theirs)).expect("settings")).expect("they agree");
        assert_eq!(
            peer_of(server.peer_certificates().expect("it is mandatory")),
            Some(ours.peer_id())
        );
        let suite = server.negotiated_cipher_suite().expect("it is negotiated").suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }

    #[test]
    fn another_identity_is_refused() {
        let (ours, theirs) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let to_another = client(&keypair(&ours), &Identity::from_secret([3; 32]).peer_id()).expect("settings");
        assert!(handshake(to_another, server(&keypair(&theirs)).expect("settings")).is_err());
    }

    #[test]
    fn the_scheme_is_libp2ps_own() {
        let (ours, theirs) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let mut libp2p_client =
            tls::make_client_config(&keypair(&ours), Some(to_libp2p(&theirs.peer_id()))).expect("settings");
        libp2p_client.alpn_protocols = vec![ALPN.to_vec()];
        assert!(handshake(libp2p_client, server(&keypair(&theirs)).expect("settings")).is_ok());
        let mut libp2p_server = tls::make_server_config(&keypair(&theirs)).expect("settings");
        libp2p_server.alpn_protocols = vec![ALPN.to_vec()];
        assert!(
            handshake(
                client(&keypair(&ours), &theirs.peer_id()).expect("settings"),
                libp2p_server
            )
            .is_ok()
        );
    }
}
