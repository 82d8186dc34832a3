<?php
echo stripos($_SERVER['HTTP_HOST'] ?? '', 'shared.example') !== false ? 'served shared.example' : 'served another host';
