// Reads safetensors files: the header's length in 8 bytes, the header as JSON, the tensors' bytes.

const ARRAYS = { F32: Float32Array, U8: Uint8Array };

/** All tensors of a file (an ArrayBuffer) as {name: {shape, data}}. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  delete header.__metadata__;
  const tensors = Object.entries(header).map(([name, { dtype, shape, data_offsets }]) => {
    const [start, end] = data_offsets.map((offset) => 8 + length + offset);
    return [name, { shape, data: new ARRAYS[dtype](buffer.slice(start, end)) }]; // slice: aligned
  });
  return Object.fromEntries(tensors);
}
