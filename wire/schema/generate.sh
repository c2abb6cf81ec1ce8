#!/bin/sh
# Makes wire/generated from wire/schema with flatc 25.12.19, and records the schema's hash there.
# Usage: wire/schema/generate.sh            (FLATC names another binary)
set -eu
cd "$(dirname "$0")"
flatc="${FLATC:-flatc}"
expected="flatc version 25.12.19"
found="$("$flatc" --version)"
if [ "$found" != "$expected" ]; then
    echo "need $expected, found: $found" >&2
    exit 1
fi
out=../generated
"$flatc" --rust -o "$out/src" ./*.fbs
CATENA_RECORD_SCHEMA_HASH=1 cargo test --quiet -p wire --test schema
echo "wrote $out/src/*_generated.rs and $out/schema.hash"
