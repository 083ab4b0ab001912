"""NFSv3 as a client sees it: RFC 1813 over the wire against a running server set.

Each module starts `unfsd` of this tree on a free loopback port with exports of each kind (conftest.py), and looks at the end that
it stops within its time, leaves no process, port or file behind and has no traceback in its log.  Variables make runs longer:

    NFS3_MODEL_EXAMPLES, NFS3_MODEL_STEPS   test_model.py: random histories and their length (60, 40)
    NFS3_FUZZ_ROUNDS, NFS3_FUZZ_SEED        test_fuzz.py: mutated messages (2,000), and the seed of a run that is to be repeated
    NFS3_RETRANSMISSIONS                    test_drc.py (2,000); 100,000 take half a minute
    NFS3_DIR_ENTRIES                        test_readdir.py: entries of the large directory (10,000)
    NFS3_SLOW=1                             tests that wait for a deadline of the server (30 s)
    NFS3_TEST_SERVER='COMMAND'              another server, with the places {exports} {port} {mount_port} {pidfile}
"""
