"""The weight codec, reading half: a coded stream back into the exact bytes of a file.

* `source`: the stream as it comes, in chunks, read exactly and within bounds.
* `tables`: probability tables, from a byte a symbol to what the decoder looks up.
* `rans`: entropy-coded symbols, thousands of lanes at a time in numpy.
* `symbols`: planes of one-byte symbols: constant, raw, zstd or entropy coded, several in a byte.
* `contexts`: which probability table an element's row and column call for.
* `methods`: tensors from planes: byte planes, palettes, sparse masks, grids, differences.
* `pools`: small tensors that are decoded as one.
* `stream`: the whole stream, block by block.

docs/formats/stream.md describes the stream byte by byte; the writing half is in
`trimtab.package.coding`, on the host.
"""
