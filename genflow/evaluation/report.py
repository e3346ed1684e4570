def write_report(folder, out=None):
    return folder
