"""Many recordings analysed again, on this machine or on a cluster; each result is stored once, whatever dies.

`places` finds and fetches bundles by path or URL, `work` is what a worker does with one of them, `campaign` hands them
out and takes what comes back. Workers only compute: one process, the one that was asked, stores.
"""
