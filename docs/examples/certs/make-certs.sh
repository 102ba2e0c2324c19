#!/bin/sh
# Makes the certificates in this folder anew: an authority, a server and two clients, RSA with 2048 bits, good
# for ten years. They are for trying things out on one machine: everybody has these keys.
#
#   ./make-certs.sh            all of them, with a new authority
#   ./make-certs.sh bob admin  one more client, bob@admin, of the authority that is there
set -eu
cd "$(dirname "$0")"
DAYS=3650

key() {
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1.key" 2>/dev/null
}

# FILE COMMON_NAME EXTENSIONS: a certificate of the authority; the file says what it is for.
certificate() {
    key "$1"
    openssl req -new -key "$1.key" -subj "/CN=$2" |
        openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 8)" -days "$DAYS" -sha256 \
            -extfile "$3" -out "$1.crt" 2>/dev/null
}

client() {
    certificate "$1" "$1@$2" client.ext
}

extensions() {
    printf '%s\n' "basicConstraints = critical, CA:FALSE" "subjectKeyIdentifier = hash" \
        "authorityKeyIdentifier = keyid" "keyUsage = critical, digitalSignature" "$@"
}

trap 'rm -f server.ext client.ext' EXIT
extensions "extendedKeyUsage = serverAuth" "subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1" >server.ext
extensions "extendedKeyUsage = clientAuth" >client.ext

if [ $# -eq 2 ]; then
    client "$1" "$2"
    exit
fi
key ca
openssl req -new -x509 -key ca.key -subj "/CN=rproxy example authority" -days "$DAYS" -sha256 \
    -addext "basicConstraints = critical, CA:TRUE" -addext "keyUsage = critical, keyCertSign, cRLSign" -out ca.crt
certificate server localhost server.ext
client jbranham admin
client alice reports
