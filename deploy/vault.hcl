# Vault for one host, reached on loopback alone: no TLS there. It starts sealed; see docs/operating.md.
storage "file" {
  path = "/vault/file"
}
listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}
