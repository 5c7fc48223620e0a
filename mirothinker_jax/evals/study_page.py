def write_page(path, name, summary):
    pass
