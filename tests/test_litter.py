import pytest

from lungline.litter import is_litter


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "ward/.DS_Store", "._scan.dcm", "__MACOSX/ward/scan.dcm", "Icon\r", ".Trashes/501/scan.dcm"),
        *("Thumbs.db", "THUMBS.DB", "Thumbs.db:encryptable", "scan.dcm:Zone.Identifier", "desktop.ini", "Desktop.ini"),
        *("$RECYCLE.BIN/S-1-5/$R1.png", "System Volume Information/IndexerVolumeGuid", "~$report.docx"),
        *("@eaDir/scan.png/SYNOPHOTO_THUMB_M.jpg", "ward/@eaDir/scan.png@SynoEAStream", "#recycle/scan.png"),
        *(".@__thumb/scan.png", ".directory", ".Trash-1000/files/scan.png", "lost+found/#123"),
        *(".nfs000000000123abcd00000001", ".fuse_hidden0000000100000002", ".~lock.report.odt#"),
        *(".ipynb_checkpoints/scan-checkpoint.png", ".git/objects/ab/cdef", ".gitkeep", ".stfolder/x"),
        "ward\\Thumbs.db",
    ],
)
def test_what_systems_leave_behind_is_litter(name: str) -> None:
    assert is_litter(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "scan.dcm", "ward 7/scan.png", "IM-0115-0001.jpeg", "1.2.840.113619.2.1", "._", ".x.png"),
        "a/b/.scan.dcm",
        *("Thumbs.db.png", "desktop.ini.dcm", "my__MACOSX/scan.png", "thumbs/scan.png", "icon.png", "eaDir/scan.png"),
        *("DS_Store", "recycled/scan.png", "Ünï çode ☃.png", "\udcff.png", "a:b.png", "scan~$1.dcm"),
    ],
)
def test_an_image_is_never_litter(name: str) -> None:
    assert not is_litter(name)
