import pytest

from paypost.stack.ports import BLOCK_SIZE_PORTS, NoFreePortsError, PortBlock


def claim(directory, *, seed="a stack", free=lambda _port: True):
    return PortBlock.claim(seed=seed, directory=directory, free=free)


class TestPortBlock:
    def test_hands_out_the_same_port_for_the_same_name(self, tmp_path):
        with claim(tmp_path) as ports:
            assert ports.port("kafka") == ports.port("kafka") != ports.port("postgres")

    def test_two_claims_share_no_port(self, tmp_path):
        with claim(tmp_path) as one, claim(tmp_path) as other:
            assert abs(one.port("kafka") - other.port("kafka")) >= BLOCK_SIZE_PORTS

    def test_the_same_seed_gets_the_same_block_again(self, tmp_path):
        with claim(tmp_path) as ports:
            first = ports.port("kafka")
        with claim(tmp_path) as ports:
            assert ports.port("kafka") == first

    def test_passes_over_a_block_in_which_somebody_listens(self, tmp_path):
        with claim(tmp_path) as ports:
            taken = ports.port("kafka") + 3
        with claim(tmp_path, free=lambda port: port != taken) as ports:
            assert not ports.port("kafka") <= taken < ports.port("kafka") + BLOCK_SIZE_PORTS

    def test_says_so_when_all_are_taken(self, tmp_path):
        with pytest.raises(NoFreePortsError):
            claim(tmp_path, free=lambda _port: False)

    def test_says_so_when_the_block_is_used_up(self, tmp_path):
        with claim(tmp_path) as ports:
            for number in range(BLOCK_SIZE_PORTS):
                ports.port(f"server {number}")
            with pytest.raises(NoFreePortsError):
                ports.port("one more")
