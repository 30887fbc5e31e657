#!/usr/bin/env bash
# Makes the certificates of the TLS tests anew, with OpenSSL 3: one authority, three servers and their one key.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
touch "$work/index" && printf 'unique_subject = no\n' >"$work/index.attr"
cat >"$work/ca.conf" <<EOF
[ca]
default_ca = it
[it]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
EOF
new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
# sign NAME EXTENSIONS FROM TO [OPTION...]: a certificate for what these subject alternative names say.
sign() {
  openssl req -new -key server.key -subj "/CN=$1" -addext "subjectAltName=$2" -out "$work/request"
  openssl ca -batch -notext -config "$work/ca.conf" -cert authority.pem -keyfile "$work/authority.key" \
    -startdate "$3" -enddate "$4" -in "$work/request" -out "$1.pem" 2>/dev/null
}
new_key "$work/authority.key"
openssl req -x509 -new -key "$work/authority.key" -days 36500 -subj "/CN=tidegate tests" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out authority.pem
new_key server.key
sign valid "DNS:app.example,IP:127.0.0.1" 20200101000000Z 21200101000000Z
sign expired "DNS:app.example,IP:127.0.0.1" 20200101000000Z 20200102000000Z
sign future "DNS:app.example,IP:127.0.0.1" 21190101000000Z 21200101000000Z
