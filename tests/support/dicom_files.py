"""DICOM files for tests: radiographs in any transfer syntax with any header, written by pydicom."""

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import UID, generate_uid

from lungline.datasets import phantom

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BASELINE, EXTENDED, LOSSLESS, LOSSLESS_FIRST = (f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70))
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
RLE = "1.2.840.10008.1.2.5"

EXACT = (IMPLICIT, EXPLICIT, BIG, DEFLATED, LOSSLESS, LOSSLESS_FIRST, JPEG_LS, JPEG_2000, RLE)
LOSSY = (EXTENDED, JPEG_LS_NEAR, JPEG_2000_LOSSY)


def film(size: int = 96, *, bits: int = 12, seed: int = 1, signed: bool = False) -> np.ndarray:
    """A phantom with `bits` bits a pixel, not square."""
    grey = phantom.draw(np.random.default_rng(seed), opacities=True, size=size)[: size * 3 // 4].astype(np.int32)
    values = (grey << (bits - 8)) + (grey & ((1 << (bits - 8)) - 1)) if bits > 8 else grey >> (8 - bits)
    return (values - (1 << (bits - 1))).astype(np.int16) if signed else values.astype(np.uint16 if bits > 8 else "u1")


def dataset(pixels: np.ndarray, *, bits: int | None = None, storage: str = DX, **elements: Any) -> Dataset:
    """A radiograph of these values; `elements` by keyword, None to leave one out."""
    dicom = Dataset()
    allocated = pixels.dtype.itemsize * 8
    dicom.SOPClassUID, dicom.SOPInstanceUID, dicom.Modality = storage, generate_uid(), "DX"
    dicom.StudyInstanceUID, dicom.SeriesInstanceUID = generate_uid(), generate_uid()
    dicom.Rows, dicom.Columns = pixels.shape[:2]
    dicom.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dicom.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dicom.PlanarConfiguration = 0
    dicom.BitsAllocated, dicom.BitsStored = allocated, bits or allocated
    dicom.HighBit, dicom.PixelRepresentation = (bits or allocated) - 1, int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        if value is None:
            del dicom[keyword]
        else:
            setattr(dicom, keyword, value)
    return dicom


def write(
    pixels: np.ndarray, syntax: str = EXPLICIT, *, frames: int = 1, preamble: bool = True, **elements: Any
) -> bytes:
    """A DICOM file of these values; of several frames, the others are brighter."""
    dicom = dataset(pixels, **elements)
    if frames > 1:
        dicom.NumberOfFrames = frames
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = UID(syntax)
    dicom.file_meta.MediaStorageSOPClassUID = dicom.get("SOPClassUID", CR)
    dicom.file_meta.MediaStorageSOPInstanceUID = dicom.get("SOPInstanceUID", generate_uid())
    all_frames = [pixels, *(pixels + 1 for _ in range(frames - 1))]
    if syntax in (IMPLICIT, EXPLICIT, BIG, DEFLATED):
        order = ">" if syntax == BIG else "<"
        dicom.PixelData = b"".join(frame.astype(frame.dtype.newbyteorder(order)).tobytes() for frame in all_frames)
        dicom.PixelData += b"\0" * (len(dicom.PixelData) % 2)
        dicom["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    else:
        dicom.PixelData = encapsulate([compressed(frame, syntax, dicom.BitsStored) for frame in all_frames])
        dicom["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, dicom, enforce_file_format=True, little_endian=syntax != BIG, implicit_vr=syntax == IMPLICIT
    )
    data = buffer.getvalue()
    return data if preamble else data[132:]


def deflated_bomb(data: bytes, megabytes: int, *, behind: bool = False) -> bytes:
    """A deflated file with an element of so many megabytes of nothing before its pixels, or behind them."""
    start = pydicom.dcmread(io.BytesIO(data)).file_meta.FileMetaInformationGroupLength + 144
    body = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    at = len(body) if behind else body.index(b"\xe0\x7f\x10\x00")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = (b"\xfc\xff\xfc\xff" if behind else b"\x42\0\x11\0") + b"OB\0\0" + struct.pack("<I", megabytes * 2**20)
    pieces = [data[:start], packer.compress(body[:at] + element)]
    pieces += [packer.compress(bytes(2**20)) for _ in range(megabytes)]
    return b"".join((*pieces, packer.compress(body[at:]), packer.flush()))


def compressed(pixels: np.ndarray, syntax: str, bits: int) -> bytes:
    """A frame in a compressed transfer syntax."""
    if syntax == RLE:
        return RLELosslessEncoder.encode(
            pixels.tobytes(),
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1 if pixels.ndim == 2 else 3,
            photometric_interpretation="MONOCHROME2" if pixels.ndim == 2 else "RGB",
            bits_allocated=pixels.dtype.itemsize * 8,
            bits_stored=bits,
            pixel_representation=int(pixels.dtype.kind == "i"),
            number_of_frames=1,
            planar_configuration=0,
        )
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    if syntax in (LOSSLESS, LOSSLESS_FIRST):
        mask = np.array((1 << bits) - 1, unsigned.dtype)
        return bytes(imagecodecs.jpeg8_encode(unsigned & mask, lossless=True, predictor=1, bitspersample=bits))
    if syntax in (BASELINE, EXTENDED):
        return bytes(imagecodecs.jpeg8_encode(unsigned, level=95, bitspersample=12 if syntax == EXTENDED else 8))
    if syntax in (JPEG_LS, JPEG_LS_NEAR):
        return bytes(imagecodecs.jpegls_encode(unsigned, level=2 if syntax == JPEG_LS_NEAR else 0))
    lossless = syntax == JPEG_2000
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0 if lossless else 80, codecformat="j2k", reversible=lossless))


def window(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Grey levels through a linear window (PS3.3 C.11.2.1.2.1)."""
    return np.rint(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)
