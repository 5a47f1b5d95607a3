"""Files that operating systems, file managers, NAS devices and sync programs leave beside the user's own."""

import re

# Names without a pattern, in lower case; a folder's name stands for everything in it.
_NAMES = frozenset(
    {
        # macOS
        *(".ds_store", "__macosx", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", ".localized"),
        *(".documentrevisions-v100", ".appledouble", ".appledb", ".appledesktop", ".apdisk", ".volumeicon.icns"),
        *(".com.apple.timemachine.donotpresent", ".lsoverride", "icon\r"),
        # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),
        "system volume information",
        # Linux desktops and file systems
        *(".directory", "lost+found", ".thumbnails"),
        # NAS devices: Synology, QNAP, WD
        *("@eadir", "#recycle", "#snapshot", "@recycle", ".@__thumb", ".@upload_cache", ".wdmc"),
        # Sync programs and object store tools
        *(".stfolder", ".stversions", ".stignore", ".dropbox", ".dropbox.attr", ".dropbox.cache", ".sync"),
        *(".tmp.drivedownload", ".tmp.driveupload", ".owncloudsync.log", ".csync_journal.db"),
        # Notebooks, version control
        *(".ipynb_checkpoints", ".git", ".gitignore", ".gitattributes", ".gitkeep", ".keep", ".svn", ".hg", ".dvc"),
    }
)
# AppleDouble twins (`._scan.dcm`), a Windows stream that zip tools write out (`Thumbs.db:encryptable`), the trash of
# Linux desktops, files that are deleted while open (NFS, FUSE), lock files of office programs.
_PATTERN = re.compile(
    r"\._.+|.+:(?:encryptable|zone\.identifier|\$data)|\.trash(?:-\d+)?|\.nfs[0-9a-f]{8,}|\.fuse_hidden[0-9a-f]+"
    r"|~\$.+|\.~lock\..*#|\.syncthing\..+\.tmp|\._sync_[0-9a-f]+\.db.*|\.sync_[0-9a-f]+\.db.*",
    re.IGNORECASE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Whether a file's name, path or object key is one that a system leaves behind, and never an X-ray.

    Parts of a path are separated by `/` or a backslash; a path is litter when one of its folders is.
    Hidden files that no system is known for are not litter.

        >>> is_litter("train/NORMAL/.DS_Store"), is_litter("ward/._scan.dcm"), is_litter("ward/scan.dcm")
        (True, True, False)
    """
    return any(part.lower() in _NAMES or _PATTERN.fullmatch(part) for part in re.split(r"[/\\]", name))
